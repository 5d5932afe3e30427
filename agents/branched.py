"""BranchedRollouts: short imagined rollouts from real states, for algorithms that learn from a replay buffer."""

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.noise import NormalActionNoise, VectorizedActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import Tensor

from mbrl_gym.agents.dream_data import MixedReplayBuffer, Rows, ending, normalized, real_rows, stored_action
from mbrl_gym.agents.dream_strategy import DreamStrategy
from mbrl_gym.agents.expander import Expander
from mbrl_gym.agents.imports import decode_choice, encode_choice
from mbrl_gym.agents.inner import real_noise
from mbrl_gym.agents.rollout_length import LENGTHS, Experience, FixedLength, RolloutLength
from mbrl_gym.agents.value_expansion import EXPANSIONS, MVE, STEVE
from mbrl_gym.model import Prediction, WorldModel
from mbrl_gym.spaces import Observation
from mbrl_gym.tensors import TensorStruct, concatenate

if TYPE_CHECKING:
    from mbrl_gym.agents.dyna import Dyna


@dataclass(frozen=True)
class BranchedRollouts:
    """How an off-policy algorithm dreams. Source: Janner et al. 2019 (MBPO), algorithm 2; jannerm/mbpo.

    Attributes:
        length: how many steps the rollouts take: `FixedLength`, `ScheduledLength`, `AdaptiveLength`.
        rollouts_per_step: rollouts that begin for each real step; all of them after a training of the model.
        updates_per_step: gradient steps of the algorithm after each real step.
        real_ratio: the share of each batch that is real experience.
        retain: dreams that are kept, the newest ones: one after each training.
        expansion: imagined steps inside the TD target: `MVE`, `STEVE`; None: none.

    Raises:
        ValueError: a number is out of its range.
    """

    length: RolloutLength = field(default_factory=FixedLength)
    rollouts_per_step: int = 100
    updates_per_step: int = 10
    real_ratio: float = 0.05
    retain: int = 1
    expansion: MVE | STEVE | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.length, RolloutLength):
            raise ValueError(f"length must be a RolloutLength, as in FixedLength(1), got {self.length!r}")
        for name in ("rollouts_per_step", "updates_per_step", "retain"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.real_ratio <= 1:
            raise ValueError(f"real_ratio must be between 0 and 1, got {self.real_ratio}")

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as JSON."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("length", "expansion")}
        return {
            **plain,
            "length": encode_choice(LENGTHS, self.length),
            "expansion": encode_choice(EXPANSIONS, self.expansion),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "BranchedRollouts":
        """Return the configuration that `to_json` described."""
        kinds = {"length": LENGTHS, "expansion": EXPANSIONS}
        parts = {name: decode_choice(known, data[name], f"rollouts[{name!r}]") for name, known in kinds.items()}
        return cls(**{**data, **parts})


class Branched(DreamStrategy):
    """After each training, rollouts from real states; after each real step, gradient steps on a mixture of both."""

    def __init__(self, agent: "Dyna", config: BranchedRollouts) -> None:
        super().__init__(agent)
        self.config = config
        self._imagined = 0
        self._seen: np.ndarray[Any, Any] | None = None  # [n_envs] steps that the model was fitted to
        self._length = 1
        self.mean_length = 0.0  # of the rollouts after the last training

    @property
    def imagined_steps(self) -> int:
        """Transitions that were imagined."""
        return self._imagined

    def bind(self) -> None:
        """Give the algorithm the mixed buffer."""
        agent, config = self.agent, self.config
        assert isinstance(agent.algorithm, OffPolicyAlgorithm)
        self.algorithm: Any = agent.algorithm  # whose train and batch_size SB3 leaves to the subclasses
        self.buffer = MixedReplayBuffer(
            agent.observation_space, agent.action_space, agent.device, config.real_ratio, config.retain
        )
        self.algorithm.replay_buffer = self.buffer
        self._expander = None if config.expansion is None else Expander(agent, self.buffer, config.expansion)
        self.follow_normalization()  # by reference: a loaded agent learns before its next fit

    # ---- the schedule -----------------------------------------------------------------------------------------------

    def before_fit(self) -> None:
        """Choose the length of the next rollouts by what the model makes of real steps that it has not seen."""
        agent = self.agent
        unseen = np.zeros(agent.n_envs, dtype=np.int64) if self._seen is None else self._seen
        model = None if self._seen is None else agent.model
        self._length = self.config.length.steps(Experience(agent.real_steps, model, agent.replay, unseen))

    def after_fit(self) -> None:
        """Imagine the rollouts that the next real steps' updates learn from."""
        agent = self.agent
        index = agent.replay.windows(1)
        steps = [index[index % agent.n_envs == env] // agent.n_envs for env in range(agent.n_envs)]
        self._seen = np.array([s.max(initial=-1) + 1 for s in steps], dtype=np.int64)
        self.buffer.real = real_rows(agent.replay, agent.device)
        self.follow_normalization()
        self._follow_progress()
        if self._expander is not None:
            self._expander.follow()
        rows, self.mean_length = self._imagine(self.config.rollouts_per_step * agent.train_freq)
        self.buffer.add_dream(rows)
        agent.logger.record("dream/rollout_length", self._length)
        agent.logger.record("dream/ep_len_mean", self.mean_length)
        agent.logger.record("dream/reward_mean", float(rows.reward.mean()))
        agent.progress.show(imagined=self._imagined)

    def after_step(self) -> None:
        """Take the gradient steps of one step of the real environments."""
        agent, algorithm = self.agent, self.algorithm
        if not self.buffer.size():
            return
        updates = self.config.updates_per_step * agent.n_envs
        if self._expander is not None:
            self._expander.seed(agent._draw_seed())
        self._follow_progress()
        if type(algorithm)._on_step is OffPolicyAlgorithm._on_step:
            algorithm.train(updates, algorithm.batch_size)
        else:  # DQN's: its target network follows by steps of the environment, here by updates
            for _ in range(updates):
                algorithm.train(1, algorithm.batch_size)
                algorithm._on_step()
        agent._log_algorithm()

    def _follow_progress(self) -> None:
        """Tell the algorithm how much of the real steps is left: its rates of learning and exploring follow that."""
        agent, algorithm = self.agent, self.algorithm
        total = max(agent._total_timesteps, 1)
        algorithm._current_progress_remaining = 1.0 - min(agent.num_timesteps / total, 1.0)
        if hasattr(algorithm, "exploration_schedule"):  # DQN's, which SB3 asks at each of its own steps
            algorithm.exploration_rate = algorithm.exploration_schedule(algorithm._current_progress_remaining)

    # ---- dreaming ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _imagine(self, count: int) -> tuple[Rows, float]:
        """Return the transitions of ``count`` rollouts under the exploring policy, and their mean length."""
        agent = self.agent
        model = agent.model.frozen()
        generator = torch.Generator(agent.device).manual_seed(agent._draw_seed())
        hypotheses = model.hypotheses  # shared out evenly, which is also the fastest way
        groups = max(1, count // hypotheses)
        state = self._beliefs(model, groups, generator)
        state = model.branch(state, hypotheses) if hypotheses > 1 else state
        alive = torch.ones(state.batch_size, dtype=torch.bool, device=agent.device)
        parts, noise = [], self._lasting_noise(state.batch_size)
        for _ in range(self._length):
            before = model.decode(state)
            encoded = self._act(before, generator, noise)
            state, step = model.predict(state, encoded, generator, uncertainty=False)
            parts.append(self._rows(before, encoded, model.decode(state), step, alive))
            alive = alive & ~(step.terminated | step.truncated)
            if not bool(alive.any()):
                break
        rows = concatenate(parts)
        self._imagined += rows.batch_size
        return rows, rows.batch_size / alive.shape[0]

    def _beliefs(self, model: WorldModel[Any], count: int, generator: torch.Generator) -> TensorStruct:
        """Return beliefs [count] in real states."""
        replay, context = self.agent.replay, model.context
        starts = replay.starts(context)
        weights = self.agent.starts.weights(replay, replay.start_rows(context))
        if weights is None:
            drawn = starts.to(generator.device).sample(count, generator)
        else:
            probability = torch.as_tensor(weights, dtype=torch.float32, device=generator.device)
            chosen = torch.multinomial(probability, count, replacement=True, generator=generator)
            drawn = starts.to(generator.device)[chosen]
        belief: TensorStruct = model.believe(drawn.obs, drawn.action, generator)
        return belief

    def _act(self, obs: Observation, generator: torch.Generator, lasting: VectorizedActionNoise | None) -> Tensor:
        """Return encoded actions [B, A] of the exploring policy for raw observations."""
        agent, algorithm = self.agent, self.algorithm
        policy: Any = algorithm.policy
        policy.set_training_mode(False)
        if algorithm.use_sde:
            policy.reset_noise(len(next(iter(obs.values()))) if isinstance(obs, dict) else len(obs))
        action: Tensor = policy._predict(normalized(obs, agent._vec_normalize_env), deterministic=False)
        codec = agent.model.action_codec
        if isinstance(agent.action_space, spaces.Discrete):
            explores = torch.rand(action.shape, generator=generator, device=action.device)
            rate = float(getattr(algorithm, "exploration_rate", 0.0))
            greedy = torch.nn.functional.one_hot(action.long(), codec.size).float()
            random = codec.sample(len(action), generator, action.device)
            return torch.where((explores < rate)[:, None], random, greedy)
        noisy = action.flatten(1) + self._noise(action.flatten(1), generator, lasting)
        return noisy.clamp(-1, 1)

    def _lasting_noise(self, rollouts: int) -> VectorizedActionNoise | None:
        """Return action noise with a memory, one that begins for each rollout; None where the noise has none."""
        noise = None if _normal(self.algorithm.action_noise) else real_noise(self.algorithm, rollouts)
        if noise is not None:
            noise.reset()
        return noise

    def _noise(self, action: Tensor, generator: torch.Generator, lasting: VectorizedActionNoise | None) -> Tensor:
        """Return what the algorithm's action noise adds to actions [B, A] on their scale of [-1, 1]."""
        if lasting is not None:
            drawn = np.asarray(lasting()).reshape(action.shape)
            return torch.as_tensor(drawn, dtype=action.dtype, device=action.device)
        normal = _normal(self.algorithm.action_noise)
        if normal is None:
            return torch.zeros_like(action)
        mean, deviation = (
            torch.as_tensor(x, dtype=action.dtype, device=action.device).flatten() for x in (normal._mu, normal._sigma)
        )
        return mean + deviation * torch.randn(action.shape, generator=generator, device=action.device)

    def _rows(self, before: Observation, encoded: Tensor, after: Observation, step: Prediction, alive: Tensor) -> Rows:
        """Return the transitions of the rows that are still alive, without those that diverged."""
        action = stored_action(encoded, self.agent.action_space)
        rows = Rows(before, action, after, step.reward, ending(step))
        diverged = step.info.get("diverged", torch.zeros_like(alive))
        return rows[alive & ~diverged]

    # ---- storing ----------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return the dreams that are still learned from, the counts, and what the model has seen."""
        dreams = [_to_plain(rows) for rows in self.buffer.dreams]
        real = None if self.buffer.real is None else _to_plain(self.buffer.real)
        seen = None if self._seen is None else self._seen.tolist()
        return {"imagined": self._imagined, "seen": seen, "length": self._length, "dreams": dreams, "real": real}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""
        self._imagined, self._length = state["imagined"], state["length"]
        if self._expander is not None:
            self._expander.follow()
        self._seen = None if state["seen"] is None else np.array(state["seen"], dtype=np.int64)
        self.buffer.dreams.clear()
        for rows in state["dreams"]:
            self.buffer.add_dream(Rows(**rows))
        self.buffer.real = None if state["real"] is None else Rows(**state["real"])


def _normal(noise: Any) -> NormalActionNoise | None:
    """Return an algorithm's action noise where it is drawn anew for each step."""
    base = noise.base_noise if isinstance(noise, VectorizedActionNoise) else noise  # SB3 makes one for each dream
    return base if isinstance(base, NormalActionNoise) else None


def _to_plain(rows: Rows) -> dict[str, Any]:
    return {f.name: getattr(rows, f.name) for f in fields(rows)}
