"""WholeEpisodes: the algorithm trains in the dream as it would in reality, in episodes from real states."""

from typing import TYPE_CHECKING, Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import safe_mean

from mbrl_gym.agents.dream_strategy import DreamStrategy
from mbrl_gym.agents.inner import is_on_policy
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.start_states import StartStates

if TYPE_CHECKING:
    from mbrl_gym.agents.dyna import Dyna


class WholeEpisodes(DreamStrategy):
    """Dream episodes of ``dream_horizon`` steps, truncated there: for on-policy algorithms."""

    @property
    def imagined_steps(self) -> int:
        """Steps that the algorithm took."""
        return self.agent.algorithm.num_timesteps

    def bind(self) -> None:
        """Let the dream bootstrap truncated rows for an on-policy algorithm, where that is possible."""
        algorithm, real = self.agent.algorithm, self.agent._vec_normalize_env
        recurrent = hasattr(algorithm, "_last_lstm_states")
        possible = is_on_policy(algorithm) and not recurrent and not (real is not None and real.norm_reward)
        self.agent._sb3_env.bootstrap_with(algorithm if possible else None)

    def before_fit(self) -> None:
        """Do nothing: dreams are as long as they are."""

    def after_step(self) -> None:
        """Do nothing: the algorithm learns while it dreams."""

    def after_fit(self) -> None:
        """Train the algorithm for ``dream_steps`` imagined steps in the model as it is now."""
        self.dream(self.agent.dream_steps)

    def dream(self, steps: int) -> None:
        """Train the algorithm for so many imagined steps, from new starts."""
        agent, algorithm, seed = self.agent, self.agent.algorithm, self.agent._draw_seed()
        self.follow_normalization()
        agent.dream.set_starts(self._starts(seed))
        real = agent._vec_normalize_env
        if agent.normalize_reward and not (real is not None and real.norm_reward):
            deviation = return_deviation(agent.replay, float(getattr(algorithm, "gamma", 1.0)))
            agent._sb3_env.reward_scale = 1.0 / deviation
        assert algorithm.env is not None
        algorithm.env.seed(seed)
        algorithm.action_space.seed(seed)
        algorithm._last_obs = None  # reset the dream: it is another model now
        algorithm.ep_info_buffer = None
        progress = _Progress(agent)
        algorithm.learn(steps, callback=progress, log_interval=10**9, reset_num_timesteps=False)
        if algorithm.ep_info_buffer:
            returns, lengths = ([ep[key] for ep in algorithm.ep_info_buffer] for key in ("r", "l"))
            agent.logger.record("dream/ep_rew_mean", safe_mean(returns))
            agent.logger.record("dream/ep_len_mean", safe_mean(lengths))
            agent.logger.record("dream/reward_mean", sum(returns) / sum(lengths))
        if "uncertainty" in agent._sb3_env.step_info:
            uncertainty = float(np.mean(agent._sb3_env.step_info["uncertainty"]))
            agent.logger.record("dream/uncertainty", uncertainty)
        agent._log_algorithm()

    def _starts(self, seed: int) -> StartStates:
        """Return the states to start from, as often as they weigh."""
        replay, context = self.agent.replay, self.agent.model.context
        starts = replay.starts(context, most=self.agent.dream_starts, rng=np.random.default_rng(seed))
        weights = self.agent.starts.weights(replay, replay.start_rows(context))
        if weights is None:
            return starts
        drawn = np.random.default_rng(seed).choice(len(starts), len(starts), p=weights / weights.sum())
        return starts[drawn]

    def state(self) -> dict[str, Any]:
        """Return the units of the algorithm's rewards; every dream begins anew."""
        return {"reward_scale": self.agent._sb3_env.reward_scale}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""
        self.agent._sb3_env.reward_scale = state.get("reward_scale", 1.0)


def return_deviation(replay: SequenceReplay, discount: float) -> float:
    """Return the standard deviation of the running discounted sums of rewards in ``replay``; 1 where it is zero.

    Source: SB3's VecNormalize, ``_update_reward`` (the sums run forwards and start anew with each episode).
    """
    rows = replay.gather(replay.windows(1), 1)
    total, sums = 0.0, []
    for reward, is_first in zip(rows.reward[:, 0].tolist(), rows.is_first[:, 0].tolist(), strict=True):
        total = 0.0 if is_first else total * discount + reward
        if not is_first:
            sums.append(total)
    deviation = float(np.std(sums))
    return deviation if deviation > 1e-8 else 1.0


class _Progress(BaseCallback):
    """Shows how far the dream is."""

    def __init__(self, agent: "Dyna") -> None:
        super().__init__()
        self._agent = agent

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        episodes = self.model.ep_info_buffer
        dreamt = {"dream_return": safe_mean([ep["r"] for ep in episodes])} if episodes else {}
        self._agent.progress.show(imagined=self.model.num_timesteps, **dreamt)
