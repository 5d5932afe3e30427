"""The agents that the command line trains: how each is made from the options, stored in run.json, and loaded."""

from abc import ABC, abstractmethod
from dataclasses import fields, replace
from typing import Any, ClassVar

import gymnasium as gym
from gymnasium import spaces

from mbrl_gym.agents import MBPO, PETS, Dreamer, Dyna, LeanSAC, ModelBasedAlgorithm, PlaNet, SimPLe
from mbrl_gym.agents.pets_presets import PRESETS
from mbrl_gym.agents.planet_presets import PRESETS as PLANET_PRESETS
from mbrl_gym.agents.simple import is_game
from mbrl_gym.agents.simple_presets import PRESETS as SIMPLE_PRESETS
from mbrl_gym.cli.commands import Train
from mbrl_gym.cli.errors import UserError, user_errors
from mbrl_gym.cli.real import ALGORITHMS, find_algorithm, find_policy, make_real
from mbrl_gym.cli.run_folder import RunFolder
from mbrl_gym.planners import PLANNERS
from mbrl_gym.spaces import is_image
from mbrl_gym.wrappers import make_atari

SCHEDULE = ("learning_starts", "train_freq")
KNOWN = ("reward", "termination")


class AgentKind(ABC):
    """One kind of agent.

    Attributes:
        options: the options of `mbrl-gym train` that belong to it, beside those of all agents.
    """

    options: ClassVar[tuple[str, ...]]

    def real(self, env_id: str, preset: str | None = None) -> gym.Env[Any, Any]:
        """Return the real environment as the agent sees it."""
        return make_real(env_id)

    @abstractmethod
    def make(self, args: Train, env: gym.Env[Any, Any], seed: int) -> ModelBasedAlgorithm:
        """Return a new agent."""

    @abstractmethod
    def arguments(self, args: Train, agent: Any) -> dict[str, Any]:
        """Return the options of a new agent as run.json keeps them."""

    @abstractmethod
    def load(self, run: RunFolder, arguments: dict[str, Any], device: str, env: Any = None) -> ModelBasedAlgorithm:
        """Return the agent of a run; ``arguments`` are those of run.json."""

    @abstractmethod
    def request(self, args: Train) -> str:
        """Return what was asked for, to begin an error message with."""

    @abstractmethod
    def title(self, agent: Any) -> str:
        """Return what the agent is called."""

    def note(self, agent: Any) -> str:
        """Return what a line of progress says beside steps, returns and the model's error."""
        return ""

    def given(self, args: Train) -> dict[str, Any]:
        """Return the agent's own options that were given, as run.json would keep them."""
        return {name: value for name in self.options if (value := getattr(args, name)) is not None}


class DynaKind(AgentKind):
    """Dyna."""

    options = ("algorithm", *KNOWN, *SCHEDULE, "dream_steps", "dream_envs", "dream_horizon")

    def make(self, args: Train, env: gym.Env[Any, Any], seed: int) -> Dyna:
        """Return Dyna with the algorithm that was asked for."""
        algorithm = find_algorithm(args.algorithm or "ppo")
        numbers = {name: value for name, value in self.given(args).items() if name != "algorithm"}
        policy = find_policy(algorithm, env.observation_space)
        return Dyna(policy, env, algorithm=algorithm, seed=seed, device=args.device, **numbers)

    def arguments(self, args: Train, agent: Any) -> dict[str, Any]:
        """Return the algorithm's import path and the numbers."""
        numbers = {name: getattr(agent, name) for name in self.options if name not in ("algorithm", *KNOWN)}
        return {"algorithm": _path(args.algorithm or "ppo"), **_known(args), **numbers}

    def given(self, args: Train) -> dict[str, Any]:
        """Return the options that were given, the algorithm by its import path."""
        found = super().given(args)
        return {name: _path(value) if name == "algorithm" else value for name, value in found.items()}

    def load(self, run: RunFolder, arguments: dict[str, Any], device: str, env: Any = None) -> Dyna:
        """Return the stored agent, whose algorithm is the one that run.json names."""
        given = {"algorithm": find_algorithm(arguments["algorithm"])} if "algorithm" in arguments else {}
        return Dyna.load(run.agent, env=env, device=device, **given)

    def request(self, args: Train) -> str:
        """Return the algorithm and the environment."""
        return f"{find_algorithm(args.algorithm or 'ppo').__name__} in a model of {args.env}"

    def title(self, agent: Any) -> str:
        """Return Dyna(algorithm)."""
        return f"Dyna({agent.algorithm_class.__name__})"


class MBPOKind(AgentKind):
    """MBPO."""

    options = ("preset", *KNOWN, *SCHEDULE)

    def make(self, args: Train, env: gym.Env[Any, Any], seed: int) -> MBPO:
        """Return MBPO with the preset that was asked for."""
        policy = find_policy(LeanSAC, env.observation_space)
        return MBPO(policy, env, seed=seed, device=args.device, **self.given(args))

    def arguments(self, args: Train, agent: Any) -> dict[str, Any]:
        """Return preset, what is known, and the schedule."""
        return {
            **{name: getattr(agent, name) for name in self.options if name not in KNOWN},
            **_known(args, "known if it is"),
        }

    def load(self, run: RunFolder, arguments: dict[str, Any], device: str, env: Any = None) -> MBPO:
        """Return the stored agent."""
        return MBPO.load(run.agent, env=env, device=device)

    def request(self, args: Train) -> str:
        """Return agent and environment."""
        return f"MBPO on {args.env}"

    def title(self, agent: Any) -> str:
        """Return MBPO."""
        return "MBPO"


class PETSKind(AgentKind):
    """PETS."""

    options = ("preset", "planner", *KNOWN, *SCHEDULE)

    def make(self, args: Train, env: gym.Env[Any, Any], seed: int) -> PETS:
        """Return PETS with the preset that was asked for."""
        options = self.given(args)
        if args.planner is not None:
            options["planner"] = _sized(_planner_class(args), _preset(args, PRESETS)(args.env).planner)
        policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
        return PETS(policy, env, seed=seed, device=args.device, **options)

    def arguments(self, args: Train, agent: Any) -> dict[str, Any]:
        """Return preset, planner, what is known, and the schedule, by the words that ask for them."""
        words = {"planner": args.planner or "the preset's", **_known(args)}
        return {**{n: getattr(agent, n) for n in self.options if n not in words}, **words}

    def load(self, run: RunFolder, arguments: dict[str, Any], device: str, env: Any = None) -> PETS:
        """Return the stored agent."""
        return PETS.load(run.agent, env=env, device=device)

    def request(self, args: Train) -> str:
        """Return agent and environment."""
        return f"PETS on {args.env}"

    def note(self, agent: Any) -> str:
        """Return how long the last plan took."""
        return f"  {1e3 * agent.policy.last_seconds:.0f} ms a plan"

    def title(self, agent: Any) -> str:
        """Return PETS(planner)."""
        return f"PETS({type(agent.policy.planner).__name__})"


class DreamerKind(AgentKind):
    """Dreamer."""

    options = ("preset", "version", "size", "train_ratio", "learning_starts")

    def make(self, args: Train, env: gym.Env[Any, Any], seed: int) -> Dreamer:
        """Return Dreamer with the version and the preset that were asked for."""
        return Dreamer(_sensing_policy(env), env, seed=seed, device=args.device, **self.given(args))

    def arguments(self, args: Train, agent: Any) -> dict[str, Any]:
        """Return version, size, preset and schedule."""
        return {name: getattr(agent, name) for name in self.options}

    def load(self, run: RunFolder, arguments: dict[str, Any], device: str, env: Any = None) -> Dreamer:
        """Return the stored agent."""
        return Dreamer.load(run.agent, env=env, device=device)

    def request(self, args: Train) -> str:
        """Return agent and environment."""
        return f"Dreamer on {args.env}"

    def title(self, agent: Any) -> str:
        """Return DreamerV3, or which it is."""
        return f"DreamerV{agent.version}"


class PlaNetKind(AgentKind):
    """PlaNet."""

    options = ("preset", "planner", "train_ratio", "learning_starts")

    def make(self, args: Train, env: gym.Env[Any, Any], seed: int) -> PlaNet:
        """Return PlaNet with the preset that was asked for."""
        options = self.given(args)
        if args.planner is not None:
            planner = _planner_class(args)
            options["planner"] = _sized(planner, _preset(args, PLANET_PRESETS)().planner)
        return PlaNet(_sensing_policy(env), env, seed=seed, device=args.device, **options)

    def arguments(self, args: Train, agent: Any) -> dict[str, Any]:
        """Return preset, planner and schedule, by the words that ask for them."""
        words = {"planner": args.planner or "the preset's"}
        return {**{n: getattr(agent, n) for n in self.options if n not in words}, **words}

    def load(self, run: RunFolder, arguments: dict[str, Any], device: str, env: Any = None) -> PlaNet:
        """Return the stored agent."""
        return PlaNet.load(run.agent, env=env, device=device)

    def request(self, args: Train) -> str:
        """Return agent and environment."""
        return f"PlaNet on {args.env}"

    def note(self, agent: Any) -> str:
        """Return how long the last plan took."""
        return f"  {1e3 * agent.policy.last_seconds:.0f} ms a plan"

    def title(self, agent: Any) -> str:
        """Return PlaNet(planner)."""
        return f"PlaNet({type(agent.policy.planner).__name__})"


class SimPLeKind(AgentKind):
    """SimPLe."""

    options = ("preset", *SCHEDULE)

    def real(self, env_id: str, preset: str | None = None) -> gym.Env[Any, Any]:
        """Return the real environment, of a game of ALE the preset's screens, with the score for the reward."""
        if not is_game(env_id):
            return make_real(env_id)
        with user_errors(ValueError, OSError, gym.error.Error, prefix=f"cannot make the environment {env_id!r}: "):
            return make_atari(env_id, replace(_named(preset, SIMPLE_PRESETS)().screens, clip_rewards=False))

    def make(self, args: Train, env: gym.Env[Any, Any], seed: int) -> SimPLe:
        """Return SimPLe with the preset that was asked for."""
        real = args.env if is_game(args.env) else env
        return SimPLe("CnnPolicy", real, seed=seed, device=args.device, **self.given(args))

    def arguments(self, args: Train, agent: Any) -> dict[str, Any]:
        """Return preset and schedule."""
        return {name: getattr(agent, name) for name in self.options}

    def load(self, run: RunFolder, arguments: dict[str, Any], device: str, env: Any = None) -> SimPLe:
        """Return the stored agent."""
        real = arguments["env"] if env is not None and is_game(arguments["env"]) else env
        return SimPLe.load(run.agent, env=real, device=device)

    def request(self, args: Train) -> str:
        """Return agent and environment."""
        return f"SimPLe on {args.env}"

    def title(self, agent: Any) -> str:
        """Return SimPLe(model)."""
        return f"SimPLe({agent.model_class.__name__})"


KINDS: dict[str, AgentKind] = {
    "dreamer": DreamerKind(),
    "dyna": DynaKind(),
    "mbpo": MBPOKind(),
    "pets": PETSKind(),
    "planet": PlaNetKind(),
    "simple": SimPLeKind(),
}
OPTIONS = {**{name: kind.options for name, kind in KINDS.items()}, "model": ("dataset", "model", "updates")}


def check_options(args: Train) -> None:
    """Raise unless all options that were given belong to what is trained.

    Raises:
        UserError: one is another's.
    """
    for name in dict.fromkeys(name for options in OPTIONS.values() for name in options):
        if name not in OPTIONS[args.agent] and getattr(args, name) is not None:
            owners = ", ".join(other for other, options in OPTIONS.items() if name in options)
            raise UserError(f"--{name.replace('_', '-')} is an option of {owners}, not of {args.agent}; leave it out")


def find_kind(args: Train) -> AgentKind:
    """Return the kind of agent that was asked for.

    Raises:
        UserError: an option of another kind was given.
    """
    check_options(args)
    return KINDS[args.agent]


def load_agent(run: RunFolder, arguments: dict[str, Any], device: str) -> ModelBasedAlgorithm:
    """Return the agent of a run folder, to predict.

    Raises:
        UserError: it cannot be loaded.
    """
    kind = stored_kind(run, arguments)
    with user_errors(RuntimeError, ValueError, prefix=f"cannot load the agent in {run.root}: "):
        return kind.load(run, arguments, device)


def stored_kind(run: RunFolder, arguments: dict[str, Any]) -> AgentKind:
    """Return the kind of agent of a run folder.

    Raises:
        UserError: this version does not know it.
    """
    name = arguments.get("agent", "dyna")
    if name not in KINDS:
        raise UserError(f"{run.root} holds an agent of the kind {name!r}; this version knows {', '.join(KINDS)}")
    return KINDS[name]


def _planner_class(args: Train) -> type:
    """Return the configuration's class of the planner that was asked for."""
    if args.planner not in PLANNERS:
        raise UserError(f"--planner must be one of {', '.join(PLANNERS)}, got {args.planner!r}")
    return PLANNERS[args.planner].config_class


def _preset(args: Train, presets: dict[str, Any]) -> Any:
    """Return the preset that was asked for."""
    return _named(args.preset, presets)


def _named(preset: str | None, presets: dict[str, Any]) -> Any:
    """Return the preset of a name; None: cpu."""
    name = preset or "cpu"
    if name not in presets:
        raise UserError(f"--preset must be one of {', '.join(presets)}, got {name!r}")
    return presets[name]


def _sized(config_class: type, planner: Any) -> Any:
    """Return a planner's configuration with the sizes of a preset's own one, where it has such fields."""
    sizes = {"candidates", "elites", "iterations", "horizon", "particles"}
    names = sizes & {field.name for field in fields(config_class)} & {field.name for field in fields(planner)}
    return config_class(**{name: getattr(planner, name) for name in names})


def _sensing_policy(env: gym.Env[Any, Any]) -> str:
    """Return the name of the policy for what an environment shows."""
    if isinstance(env.observation_space, spaces.Dict):
        return "MultiInputPolicy"
    return "CnnPolicy" if is_image(env.observation_space) else "MlpPolicy"


def _known(args: Train, termination: str = "learned") -> dict[str, str]:
    """Return the words that ask for what is known; ``termination`` where nothing was said of it."""
    return {"reward": args.reward or "learned", "termination": args.termination or termination}


def _path(algorithm: str) -> str:
    return ALGORITHMS.get(algorithm.lower(), algorithm)
