"""What a run leaves: the agent, the model, the policy, the picture."""

import importlib.util
from typing import Any

import gymnasium as gym

from mbrl_gym.agents import Dyna, ModelBasedAlgorithm
from mbrl_gym.cli.run_folder import RunFolder
from mbrl_gym.model import WorldModel
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.report import (
    OpenLoopError,
    Returns,
    open_loop_error,
    open_loop_figure,
    open_loop_trace,
    random_policy,
    run_episodes,
    save_figure,
)
from mbrl_gym.report.figures import dimension_names
from mbrl_gym.store import StoredModel, save_model

HORIZON = 30  # imagined steps that models are judged by, where episodes are long enough
EVALUATION_SEED = 10_000  # far from what training seeds its environments with
ROWS = 50_000  # of recorded evaluation experience


def unseen_experience(env: gym.Env[Any, Any], episodes: int, seed: int = 0) -> tuple[Returns, SequenceReplay]:
    """Return the returns of random actions, and a replay that begins with them; no model is trained on it."""
    replay = SequenceReplay(env.observation_space, env.action_space, ROWS)
    policy = random_policy(env.action_space, seed)
    return run_episodes(policy, env, episodes, EVALUATION_SEED, replay), replay


def model_error(model: WorldModel[Any], replay: SequenceReplay, wanted: int = HORIZON) -> OpenLoopError | None:
    """Return the open-loop error over ``wanted`` steps, or as many as the episodes allow; None if they allow none."""
    for horizon in dict.fromkeys((wanted, wanted // 2, wanted // 4, 1)):
        if horizon >= 1 and len(replay.windows(model.context + horizon)):
            return open_loop_error(model, replay, horizon)
    return None


def save_agent(agent: ModelBasedAlgorithm, run: RunFolder, card: dict[str, Any] | None = None) -> StoredModel | None:
    """Write the agent, and, once it was trained, model and policy; return the stored model."""
    agent.save(run.agent)
    if not agent.trainings:
        return None
    stored: StoredModel = agent.stored_model(card=card)
    save_model(run.model, stored)
    if isinstance(agent, Dyna):  # the others have no policy of SB3's
        agent.export_sb3(run.policy)
    return stored


def save_picture(stored: StoredModel, replay: SequenceReplay, run: RunFolder) -> str | None:
    """Write the picture of prediction against reality; return why not, if not."""
    if importlib.util.find_spec("matplotlib") is None:
        return "no picture: matplotlib is not installed (pip install 'mbrl-gym[viz]')"
    error = model_error(stored.model, replay)
    if error is None:
        return "no picture: no recorded episode is long enough"
    trace = open_loop_trace(stored.model, replay, error.horizon)
    names = dimension_names(stored.real_id, replay.observation_space)
    title = (
        f"The learned model of {stored.real_id or 'the environment'} replays recorded actions without seeing reality"
    )
    save_figure(open_loop_figure(error, trace, names, title), run.picture)
    return None
