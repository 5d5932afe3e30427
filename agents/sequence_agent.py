"""SequenceAgent: what agents share that learn a recurrent model from windows of real steps as these come in."""

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.logger import Image
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor

from mbrl_gym.agents.belief_agent import BeliefAgent
from mbrl_gym.agents.model_learner import ModelLearner, OptimizerConfig
from mbrl_gym.agents.online_sampler import OnlineSampler
from mbrl_gym.agents.progress import Stopwatch
from mbrl_gym.film import film_strip, open_loop_film
from mbrl_gym.models.rssm import RSSM, RSSMState

POLICIES = ("MlpPolicy", "CnnPolicy", "MultiInputPolicy")


class SequenceAgent(BeliefAgent):
    """Takes gradient steps on windows of the replay after every real step, at a fixed ratio of rows to real steps.

    A subclass's ``_setup_model`` makes model, trainer and policy, and calls ``_setup_replay`` between.

    Args:
        policy: one of `POLICIES`; networks follow from the observations.
        env: the real environment.
        optimizer_config: the optimiser's hyperparameters.
        train_ratio: rows learned from for each real step.
        batch_size: windows of a batch.
        batch_length: rows of a window that are learned from.
        stored_beliefs: whether windows begin with the belief that the replay holds, and new experience comes first.
        log_freq: real steps between two entries of the log.
        policy_kwargs: has to be empty.
        named: of `mbrl_gym.agents.owner.ModelOwner`; with a ``replay`` that holds ``learning_starts`` transitions,
            learning and acting by the policy begin at once.

    Raises:
        ValueError: an argument is out of its range.
    """

    model: RSSM
    trainer: ModelLearner  # type: ignore[assignment]

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        *,
        optimizer_config: OptimizerConfig,
        train_ratio: float,
        batch_size: int,
        batch_length: int,
        stored_beliefs: bool,
        log_freq: int,
        policy_kwargs: dict[str, Any] | None,
        **named: Any,
    ) -> None:
        if policy not in POLICIES:
            raise ValueError(f"policy must be one of {POLICIES}, got {policy!r}")
        if policy_kwargs:
            raise ValueError(
                f"policy_kwargs must be empty, got {policy_kwargs}; the configurations have the networks' sizes"
            )
        for name, value, least in (
            ("train_ratio", train_ratio, 0),
            ("batch_size", batch_size, 1),
            ("batch_length", batch_length, 2),
        ):
            if not least <= value < float("inf"):
                raise ValueError(f"{name} must be at least {least} and finite, got {value}")
            if name != "train_ratio" and value != int(value):
                raise ValueError(f"{name} must be a whole number, got {value}")
        self.train_ratio, self.batch_size, self.batch_length = float(train_ratio), int(batch_size), int(batch_length)
        self.stored_beliefs = bool(stored_beliefs)
        self.optimizer_config = optimizer_config
        super().__init__(
            policy,
            env,
            model_class=RSSM,
            trainer_config=None,
            reward="learned",
            termination="learned",
            wrappers=(),
            train_freq=log_freq,
            policy_kwargs=None,
            **named,
        )
        self._credit = 0.0  # updates that real steps have paid for
        self._terms: dict[str, Tensor] = {}  # sums since the last entry of the log
        self._counted = 0
        self._watch = Stopwatch(self.device)
        self._updates_here = 0  # of this process
        self._told = False

    # ---- set-up -----------------------------------------------------------------------------------------------------

    def _setup_replay(self) -> None:
        if self._given_replay is not None and self.stored_beliefs:
            raise ValueError(
                "stored_beliefs must be False with a replay of your own, which has no columns for them, got True"
            )
        least = max(self.learning_starts, (self.batch_length + 1) * self.n_envs)
        if self.buffer_size < least:
            raise ValueError(
                f"buffer_size must be at least learning_starts and a window of batch_length + 1 rows for each "
                f"environment, here {least}, got {self.buffer_size}"
            )
        super()._setup_replay()
        self._setup_sampler(self._draw_seed())

    def _replay_extras(self) -> Any:
        return self.model.extras() if self.stored_beliefs else None

    def _extras_device(self) -> torch.device | None:
        """Return the model's device where beliefs fit into half of what is free there: nothing then waits for it."""
        if self.device.type != "cuda" or not self.stored_beliefs:
            return None
        columns = self.model.extras().values()
        row = sum(math.prod(shape) * np.dtype(kind).itemsize for shape, kind in columns)
        return self.device if self.buffer_size * row <= torch.cuda.mem_get_info(self.device)[0] / 2 else None

    def _setup_sampler(self, seed: int) -> None:
        length = self.batch_length + int(self.stored_beliefs)  # one row more, whose belief the others start from
        self.sampler = OnlineSampler(self.replay, self.batch_size, length, seed, online=self.stored_beliefs)

    def _seed_training(self) -> None:
        self.sampler.rng = np.random.default_rng(self._draw_seed())

    # ---- behaviour --------------------------------------------------------------------------------------------------

    def _act(self, obs: Any) -> Any:
        action = super()._act(obs)
        if self.stored_beliefs:
            belief = self.policy.last_belief
            assert isinstance(belief, RSSMState)
            self._write_back(self.replay.newest_rows(), belief)
        return action

    # ---- training ---------------------------------------------------------------------------------------------------

    @property
    def _rows_per_update(self) -> int:
        return self.batch_size * self.batch_length

    def _after_step(self) -> None:
        """Take the updates that the last real steps have paid for."""
        if self.replay.total_added < self.learning_starts or not self.sampler.ready:
            return
        self._credit += self.n_envs * self.train_ratio / self._rows_per_update
        count = int(self._credit)
        if not count:
            return
        self._watch.start()
        for _ in range(count):
            self._update()
        self._watch.stop()
        self._credit -= count
        self._updates_here += count
        self.progress.show(imagined=self.imagined_timesteps)
        if self._updates_here >= 10 and not self._told:
            self._tell()

    def _update(self) -> None:
        batch = self.sampler.sample(self.device)
        start = None
        if self.stored_beliefs:
            start = self.model.from_extras({name: column[:, 0] for name, column in batch.extras.items()})
        states, terms = self.trainer.update(batch, start)
        if self.stored_beliefs:
            self._write_back(batch.index[:, 1:], states)
        for name, value in terms.items():
            self._terms[name] = self._terms[name] + value if name in self._terms else value
        self._counted += 1

    def _write_back(self, index: Any, states: RSSMState) -> None:
        for name, values in self.model.to_extras(states).items():
            self.replay.write_back(name, index, values)

    def _tell(self) -> None:
        """Say once, after ten updates, how large this is, how often it learns and how fast."""
        self._told = True
        if not (self.verbose or self.progress.shown):
            return
        each = self._rows_per_update / max(self.train_ratio, 1e-9)
        self.progress.say(
            f"{type(self).__name__}: {self.trainer.parameters / 1e6:.2f} M parameters, "
            f"train ratio {self.train_ratio:g} (an update every {each:.3g} real steps), "
            f"{self._updates_here / max(self._watch.total(), 1e-9):.2f} updates a second"
        )

    def _train(self) -> None:
        """Log the updates since the last entry; they were taken step by step."""
        if not self._counted:
            return
        means = {name: float(value) / self._counted for name, value in self._terms.items()}
        if not np.isfinite(list(means.values())).all():
            raise FloatingPointError(
                f"the losses became {means} within {self.trainer.updates} updates; lower learning_rate (now "
                f"{self.optimizer_config.learning_rate}) or look for extreme values in the data"
            )
        for name, value in means.items():
            self.logger.record(name, value)
        self.logger.record("model/updates", self.trainer.updates)
        self.logger.record("model/updates_per_second", self._counted / max(self._watch.lap(), 1e-9))
        self.progress.show(model_loss=means["model/loss"])
        if self.tensorboard_log is not None:
            for key in self.model.encoder.senses.keys:
                self._log_film(key)
        self._terms, self._counted = {}, 0

    def _log_film(self, key: str, windows: int = 2, length: int = 20) -> None:
        """Log what the model makes of late windows of one episode each, where there are any, as a picture.

        Args:
            key: which image; "" for the whole observation.
            windows: how many.
            length: rows of each.
        """
        starts = self.replay.windows(length)[-windows * length :: length]
        if not len(starts):
            return
        film = open_loop_film(self.model, self.replay.gather(starts, length, device=self.device), key=key or None)
        strip = film_strip(film, every=3)
        colours = strip[..., -3:] if strip.shape[-1] >= 3 else strip[..., -1:]  # the newest picture of a stack
        name = f"model/open_loop_{key}" if key else "model/open_loop"
        self.logger.record(name, Image(colours, dataformats="HWC"), exclude=("stdout", "log", "json", "csv"))

    # ---- storing ----------------------------------------------------------------------------------------------------

    def _sequence_arguments(self) -> dict[str, Any]:
        """Return those constructor's arguments as JSON that all agents of this kind share."""
        own = ("train_ratio", "batch_size", "batch_length", "stored_beliefs")
        inherited = ("model_config", "learning_starts", "buffer_size", "stats_window_size", "seed")
        found = super()._arguments()
        return {
            **{name: getattr(self, name) for name in own},
            **{name: found[name] for name in inherited},
            "optimizer_config": asdict(self.optimizer_config),
            "log_freq": self.train_freq,
        }

    @classmethod
    def _merged(cls, arguments: dict[str, Any], given: dict[str, Any], configs: dict[str, Any]) -> dict[str, Any]:
        """Return the constructor's arguments from stored and given ones; configurations as objects.

        Raises:
            ValueError: what only chooses defaults was given anew.
        """
        changed = [n for n in ("version", "size", "preset") if n in given and given[n] != arguments.get(n)]
        if changed:
            raise ValueError(
                f"{changed[0]} must be that of the stored agent, {arguments.get(changed[0])!r}, got "
                f"{given[changed[0]]!r}; leave it out, or make a new agent"
            )
        found = {**arguments, **given}
        return {**found, **{n: kind(**found[n]) for n, kind in configs.items() if n not in given}}

    def _learned_state(self) -> dict[str, Any]:
        return {**super()._learned_state(), "credit": self._credit, "sampler": self.sampler.state_dict()}

    def _load_learned_state(self, state: dict[str, Any]) -> None:
        super()._load_learned_state(state)
        self._credit = state["credit"]
        self._setup_sampler(0)  # over the replay that was loaded meanwhile
        self.sampler.load_state_dict(state["sampler"], rows=len(self.replay) > 0)
