"""MBPO: soft actor-critic on short imagined rollouts that branch from real states."""

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv

from mbrl_gym.agents.branched import BranchedRollouts
from mbrl_gym.agents.dart import DARTNoise
from mbrl_gym.agents.dyna import Dyna
from mbrl_gym.agents.mbpo_presets import PRESETS
from mbrl_gym.agents.owner import Wrappers, id_of
from mbrl_gym.agents.sac import LeanSAC
from mbrl_gym.agents.start_choice import StartChoice
from mbrl_gym.fit import TrainerConfig
from mbrl_gym.models.ensemble import Ensemble, EnsembleConfig
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.tasks import TaskFunction, known_tasks


class MBPO(Dyna):
    """Model-based policy optimisation: `Dyna` with SAC, an ensemble, and the paper's schedule.

    The policy is a stock SB3 one: ``export_sb3(path)`` writes a zip that ``stable_baselines3.SAC.load(path)`` reads.

    Source: Janner et al. 2019, algorithm 2; jannerm/mbpo ``mbpo/algorithms/mbpo.py``.

    Args:
        policy: "MlpPolicy", "MultiInputPolicy", ... or a class of SAC's.
        env: the real environment (id, Gymnasium Env or VecEnv) with a Box of actions.
        preset: "cpu" or "paper" (`mbrl_gym.agents.mbpo_presets`), for every argument that is None.
        rollouts: lengths, numbers, updates and the share of real data.
        starts: which real states rollouts start from; None: all alike.
        exploration: noise on the real actions beside SAC's own (`mbrl_gym.agents.dart`); None: none.
        algorithm_kwargs: SAC's arguments, beside the preset's.
        reward: "learned", "known", or whose it is (`mbrl_gym.agents.owner.ModelOwner`).
        termination: the same for the end of episodes; None: known where `mbrl_gym.tasks` has it for the environment's
            id, learned elsewhere.
        wrappers: against model error (`mbrl_gym.agents.owner.ModelOwner`).
        model_config: the ensemble's hyperparameters.
        trainer_config: how it is fitted.
        learning_starts: real steps of random actions before the first training.
        train_freq: real steps between trainings of the model.
        buffer_size: rows that the replay of real steps keeps.
        replay: experience to start from.
        policy_kwargs: the policy's arguments.
        stats_window_size: episodes over which returns are averaged in the log.
        tensorboard_log: folder of TensorBoard logs.
        verbose: 1 prints the log table.
        seed: of everything.
        device: a torch device, or "auto".

    Raises:
        ValueError: an argument is out of its range, or a space is not supported.
    """

    kind = "mbpo"

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        preset: str = "cpu",
        rollouts: BranchedRollouts | None = None,
        starts: StartChoice | None = None,
        exploration: DARTNoise | None = None,
        algorithm_kwargs: dict[str, Any] | None = None,
        reward: str | TaskFunction = "learned",
        termination: str | TaskFunction | None = None,
        wrappers: Wrappers = (),
        model_config: EnsembleConfig | None = None,
        trainer_config: TrainerConfig | None = None,
        learning_starts: int | None = None,
        train_freq: int | None = None,
        buffer_size: int = 1_000_000,
        replay: SequenceReplay | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: Any = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {sorted(PRESETS)}, got {preset!r}")
        env_id = id_of(env)
        if termination is None:
            termination = "known" if "termination" in known_tasks().get(env_id or "", ()) else "learned"
        defaults = PRESETS[preset](env_id)
        self.preset = preset
        super().__init__(
            policy,
            env,
            algorithm=LeanSAC,
            algorithm_kwargs={**defaults.sac, **(algorithm_kwargs or {})},
            model_class=Ensemble,
            model_config=model_config or defaults.model,
            trainer_config=trainer_config or defaults.trainer,
            reward=reward,
            termination=termination,
            wrappers=wrappers,
            learning_starts=defaults.learning_starts if learning_starts is None else learning_starts,
            train_freq=defaults.train_freq if train_freq is None else train_freq,
            rollouts=rollouts or defaults.rollouts,
            starts=starts,
            exploration=exploration,
            buffer_size=buffer_size,
            replay=replay,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )

    def _setup_model(self) -> None:
        if not isinstance(self.action_space, spaces.Box):
            raise ValueError(
                f"env must have a Box of actions, which SAC needs, got {self.action_space}; "
                "take Dyna with algorithm=DQN for discrete actions"
            )
        super()._setup_model()

    def _arguments(self) -> dict[str, Any]:
        fixed = {"algorithm", "model_class", "dream_steps", "dream_envs", "dream_horizon", "normalize_reward"}
        return {"preset": self.preset, **{k: v for k, v in super()._arguments().items() if k not in fixed}}
