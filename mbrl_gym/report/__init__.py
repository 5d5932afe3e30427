"""Fidelity of a model, and returns of a policy: numbers, a picture and an animation."""

from mbrl_gym.data import random_policy
from mbrl_gym.film import film_strip, open_loop_film
from mbrl_gym.report.animation import animate_dream, dream_frames, save_animation
from mbrl_gym.report.calibration import Calibration, calibration, ood_auroc
from mbrl_gym.report.check import Verdict, check_model
from mbrl_gym.report.data_report import ReportConfig
from mbrl_gym.report.drawn import drawn_film
from mbrl_gym.report.dream_log import DreamLog
from mbrl_gym.report.evaluation import evaluate
from mbrl_gym.report.exploitation import ExploitationGap, exploitation_gap
from mbrl_gym.report.figures import open_loop_figure, reliability_figure, save_figure
from mbrl_gym.report.open_loop import OpenLoopError, OpenLoopTrace, open_loop_error, open_loop_trace
from mbrl_gym.report.policies import Noisy, noisy_policies
from mbrl_gym.report.record import Report
from mbrl_gym.report.returns import Returns, run_episodes
from mbrl_gym.report.sampled import SampledCalibration, sampled_calibration
from mbrl_gym.report.stacked import matched_policy

__all__ = [
    "Calibration",
    "DreamLog",
    "ExploitationGap",
    "Noisy",
    "OpenLoopError",
    "OpenLoopTrace",
    "Report",
    "ReportConfig",
    "Returns",
    "SampledCalibration",
    "Verdict",
    "animate_dream",
    "calibration",
    "check_model",
    "drawn_film",
    "dream_frames",
    "evaluate",
    "exploitation_gap",
    "film_strip",
    "matched_policy",
    "noisy_policies",
    "ood_auroc",
    "open_loop_error",
    "open_loop_figure",
    "open_loop_film",
    "open_loop_trace",
    "random_policy",
    "reliability_figure",
    "run_episodes",
    "sampled_calibration",
    "save_animation",
    "save_figure",
]
