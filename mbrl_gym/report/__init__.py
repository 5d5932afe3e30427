"""Fidelity of a model, and returns of a policy: numbers, a picture and an animation."""

from mbrl_gym.data import random_policy
from mbrl_gym.film import film_strip, open_loop_film
from mbrl_gym.report.animation import animate_dream, dream_frames, save_animation
from mbrl_gym.report.calibration import Calibration, calibration, ood_auroc
from mbrl_gym.report.figures import open_loop_figure, reliability_figure, save_figure
from mbrl_gym.report.open_loop import OpenLoopError, OpenLoopTrace, open_loop_error, open_loop_trace
from mbrl_gym.report.returns import Returns, run_episodes

__all__ = [
    "Calibration",
    "OpenLoopError",
    "OpenLoopTrace",
    "Returns",
    "animate_dream",
    "calibration",
    "dream_frames",
    "film_strip",
    "ood_auroc",
    "open_loop_error",
    "open_loop_figure",
    "open_loop_film",
    "open_loop_trace",
    "random_policy",
    "reliability_figure",
    "run_episodes",
    "save_animation",
    "save_figure",
]
