"""A learned environment in a window of pygame, by Gymnasium's own player."""

from typing import Any

from mbrl_gym.play.game import Game

ARROWS = {"ArrowLeft": "K_LEFT", "ArrowRight": "K_RIGHT", "ArrowUp": "K_UP", "ArrowDown": "K_DOWN"}


def play_window(game: Game, seed: int | None = None) -> None:
    """Play the dream of ``game`` until the window is closed.

    Raises:
        ImportError: pygame is not installed.
    """
    from gymnasium.utils.play import play

    env = game.dream()
    idle = game.keys.action([], [slider.rest for slider in game.keys.sliders])
    try:
        play(env, fps=game.fps, keys_to_action=window_keys(game), noop=idle, seed=seed)
    finally:
        env.close()


def window_keys(game: Game) -> dict[Any, Any]:
    """Return the keys of ``game`` as pygame numbers them, each combination with its action."""
    return {tuple(map(_number, keys)): action for keys, action in game.keys.combinations().items()}


def _number(key: str) -> int:
    import pygame

    if key in ARROWS:
        return int(getattr(pygame, ARROWS[key]))
    return ord(" " if key == "Space" else key[-1].lower())
