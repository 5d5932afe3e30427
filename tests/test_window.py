"""A learned environment in a window, and the keys that people play it with."""

from typing import Any

import numpy as np
import pytest
from gymnasium.utils.play import play

import mbrl_gym
from mbrl_gym.envs.single import LearnedEnv
from mbrl_gym.envs.window import Window, keys_to_action


@pytest.fixture(autouse=True)
def no_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let SDL draw nowhere."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


def test_every_step_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(Window, "show", lambda self, picture: shown.append(picture))
    env = mbrl_gym.make("Learned-CartPole-v1", render_mode="human", device="cpu")
    env.reset(seed=0)
    env.step(0)
    env.step(1)
    assert env.render() is None
    assert len(shown) == 3
    assert not np.array_equal(shown[0], shown[2])
    drawn = mbrl_gym.make("Learned-CartPole-v1", render_mode="rgb_array", device="cpu")
    drawn.reset(seed=0)
    assert np.array_equal(drawn.render(), shown[0])
    env.close()


def test_small_pictures_are_enlarged_and_a_closed_window_opens_again() -> None:
    window = Window("a game", fps=1000)
    for _ in range(2):
        window.show(np.full((210, 160, 3), 7, np.uint8))
        assert window._screen.get_size() == (320, 420)
        assert window._screen.get_at((319, 419))[:3] == (7, 7, 7)
        window.close()


def test_keys_are_gymnasiums(monkeypatch: pytest.MonkeyPatch) -> None:
    import pygame

    found = keys_to_action({"w": 2, "up": 3, "down": 4, "left": 5, "right": 6})
    codes = (ord("w"), pygame.K_UP, pygame.K_DOWN, pygame.K_LEFT, pygame.K_RIGHT)
    assert found == {(code,): action for code, action in zip(codes, range(2, 7), strict=True)}
    plain: Any = mbrl_gym.make("Learned-CartPole-v1", device="cpu").unwrapped
    with pytest.raises(NotImplementedError, match=r"keys must be given for people to play Discrete\(2\)"):
        plain.get_keys_to_action()


def test_people_play_it_through_gymnasium() -> None:
    import pygame

    plain: Any = mbrl_gym.make("Learned-CartPole-v1", device="cpu").unwrapped
    env = LearnedEnv(plain.model, plain.dream.starts, 50, "rgb_array", "CartPole-v1", keys={"left": 0, "right": 1})
    actions: list[int] = []

    def seen(before: Any, after: Any, action: Any, *rest: Any) -> None:
        actions.append(int(action))
        if len(actions) == 2:
            pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_RIGHT))
        if len(actions) == 5:
            pygame.event.post(pygame.event.Event(pygame.QUIT))

    play(env, fps=200, callback=seen, noop=0, seed=0)
    assert actions[0] == 0
    assert 1 in actions
