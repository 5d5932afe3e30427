"""Learned environments to play, in a browser or a window; `Session` is the game without either."""

from mbrl_gym.play.game import Game
from mbrl_gym.play.keys import KeyMap, make_key_map
from mbrl_gym.play.session import Frame, Session

__all__ = ["Frame", "Game", "KeyMap", "Session", "make_key_map"]
