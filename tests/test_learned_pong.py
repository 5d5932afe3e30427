"""The shipped Learned-Pong: what people do with it."""

from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3 import PPO

import mbrl_gym  # noqa: F401  (registers it)
from mbrl_gym import zoo
from mbrl_gym.zoo.pong import DOWN, UP, ball, paddle


def test_it_fits_the_package_and_says_what_it_is() -> None:
    folder = zoo.shipped_models()["Learned-Pong"]
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 8_000_000
    assert "against reality" in (folder / "CARD.md").read_text()
    assert "claims no rights" in (folder / "NOTICE").read_text()


def test_a_game_goes_on_and_looks_like_pong() -> None:
    env: Any = gym.make("Learned-Pong", render_mode="rgb_array", device="cpu")
    obs, _ = env.reset(seed=0)
    assert (obs.shape, obs.dtype) == ((4, 84, 84), np.uint8)
    assert env.unwrapped.dream.horizon == 27_000
    assert env.unwrapped.get_keys_to_action()[(ord("w"),)] == UP
    screens = []
    for step in range(60):
        env.step(UP if step < 30 else DOWN)
        screens.append(env.render().mean(-1).astype(np.uint8))
    balls, paddles = ball(np.stack(screens))[:, 0], paddle(np.stack(screens))
    assert np.isfinite(balls).mean() > 0.3
    assert np.nanmedian(paddles[20:30]) + 30 < np.nanmedian(paddles[50:])  # it went up, then down


def test_sb3_trains_on_it_by_name() -> None:
    model = PPO("CnnPolicy", "Learned-Pong", n_steps=16, batch_size=16, n_epochs=1, seed=0, device="cpu").learn(32)
    assert model.num_timesteps == 32
