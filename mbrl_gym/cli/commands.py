"""The commands and their options. What a command needs is imported when it runs, so that --help is quick."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg, subcommand


@dataclass(frozen=True)
class Common(ABC):
    """What all commands share."""

    debug: bool = field(default=False, kw_only=True)
    """Show the traceback of an error."""

    def needs_screen(self) -> bool:
        """Return whether it opens a window; the others draw in memory."""
        return False

    @abstractmethod
    def run(self) -> int:
        """Run the command and return its exit code."""


@dataclass(frozen=True)
class Demo(Common):
    """Watch a model of a real environment being learned, and a policy being trained inside it (a few minutes).

    The folder will hold the model, the policy, the log, a picture of prediction against reality and an animation of
    dream beside reality. If it exists, a fresh numbered one is used.
    """

    out: Path = Path("runs/demo")
    """Run folder."""
    seed: int = 0
    """Of everything."""
    env: str = "Pendulum-v1"
    """Id of the real environment."""
    steps: int = 3000
    """Real steps."""
    baseline: bool = True
    """Train SB3's PPO in reality on as many real steps, to compare."""
    quick: bool = False
    """A rehearsal of the plumbing with a tiny model and few imagined steps; it learns nothing."""
    threads: int = 1
    """CPU threads of torch; one is the fastest for small models."""

    def run(self) -> int:
        """Run the command."""
        from mbrl_gym.cli.demo import run_demo

        return run_demo(self)


@dataclass(frozen=True)
class Train(Common):
    """Train an agent on a real environment, and keep model, policy and logs in a run folder; or a model of a data set.

    Ctrl-C stops at the next real step and saves; --resume goes on exactly from there.
    """

    agent: Positional[Literal["dreamer", "dyna", "mbpo", "model", "pets", "planet", "simple"]]
    """dreamer: an actor and a critic that learn in the imagination of a recurrent model.
    dyna: any Stable-Baselines3 algorithm inside a model that is learned along the way.
    mbpo: SAC on short imagined rollouts that branch from real states.
    model: a model alone, from recorded experience (--dataset) and without a real step.
    pets: plans in a probabilistic ensemble at every real step, and trains no policy.
    planet: the same in the beliefs of a recurrent model.
    simple: PPO on the screen of a game, in a model that predicts the next picture."""
    out: Path
    """Run folder; a run that is in it already is never overwritten (see --resume)."""
    env: Annotated[str | None, arg(metavar="STR", help_behavior_hint="(needed unless --resume)")] = None
    """Id of the real environment, as in Pendulum-v1 or package:Name-v0; model: the data set's own by default."""
    steps: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(needed unless --resume)")] = None
    """Real steps in all, those before a --resume included."""
    dataset: Annotated[str | None, arg(metavar="STR", help_behavior_hint="(needed by model)")] = None
    """model: a folder of `mbrl-gym record` or of an agent's run, or the id of a Minari data set on this machine."""
    model: Annotated[str | None, arg(metavar="STR", help_behavior_hint="(default: ensemble)")] = None
    """model: ensemble, bayes_by_backprop, mc_dropout, swag, last_layer or gaussian_process."""
    updates: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: that of the trainer, 2000)")] = None
    """model: gradient steps at most; training ends earlier where the held-out error does."""
    algorithm: Annotated[str | None, arg(metavar="STR", help_behavior_hint="(default: ppo)")] = None
    """dyna: ppo, a2c, sac, td3, ddpg, dqn; of sb3_contrib: trpo, tqc, qrdqn, crossq, recurrentppo; or module:Class."""
    preset: Annotated[str | None, arg(metavar="STR", help_behavior_hint="(default: cpu)")] = None
    """dreamer, mbpo, pets, planet, simple: cpu (light) or paper (as published, for a GPU)."""
    version: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: 3)")] = None
    """dreamer: 1, 2 or 3."""
    size: Annotated[str | None, arg(metavar="STR", help_behavior_hint="(default: 1m)")] = None
    """dreamer, version 3: 1m, 12m, 25m, 50m, 100m, 200m or 400m parameters."""
    train_ratio: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="(default: the preset's)")] = None
    """dreamer, planet: rows learned from for each real step."""
    planner: Annotated[str | None, arg(metavar="STR", help_behavior_hint="(default: the preset's)")] = None
    """pets, planet: cem, icem, mppi, gradient, mcts or random_shooting, of the preset's size."""
    reward: Annotated[str | None, arg(metavar="STR", help_behavior_hint="(default: learned)")] = None
    """Learned, known (of --env), or the name of a known reward."""
    termination: Annotated[str | None, arg(metavar="STR", help_behavior_hint="(default: the agent's)")] = None
    """Learned, known (of --env), or the name of a known termination; mbpo: known where it is."""
    seed: Annotated[
        int | None, arg(metavar="INT", help_behavior_hint="(default: a fresh one, which run.json records)")
    ] = None
    """Of everything."""
    learning_starts: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: the agent's)")] = None
    """Real steps of random actions before the first training."""
    train_freq: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: the agent's)")] = None
    """Real steps between two trainings."""
    dream_steps: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: that of Dyna)")] = None
    """dyna, on-policy algorithms: imagined steps of each training."""
    dream_envs: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: that of Dyna)")] = None
    """dyna, on-policy algorithms: dream environments that step together."""
    dream_horizon: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: that of Dyna)")] = None
    """dyna, on-policy algorithms: imagined steps an episode."""
    device: str = "auto"
    """A torch device, or auto: a GPU where there is one."""
    publish: Annotated[str | None, arg(metavar="STR", help_behavior_hint="(default: not published)")] = None
    """Also publish the model under this id, as in Learned-MyPendulum-v0, for gym.make in any later process."""
    dream_log: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: never)")] = None
    """Real steps between two films of the model's dreams, and figures of how true they are, in TensorBoard."""
    resume: bool = False
    """Continue the run in --out exactly where it stopped."""
    threads: int = 1
    """CPU threads of torch; one is the fastest for small models."""

    def run(self) -> int:
        """Run the command."""
        if self.agent == "model":
            from mbrl_gym.cli.train_model import run_train_model

            return run_train_model(self)
        from mbrl_gym.cli.train import run_train

        return run_train(self)


@dataclass(frozen=True)
class Record(Common):
    """Record real experience into a run folder, for `mbrl-gym train model --dataset` or mbrl_gym.data.load_experience.

    Ctrl-C stops at the next real step and saves what there is.
    """

    env: Positional[str]
    """Id of the real environment, as in Pendulum-v1 or package:Name-v0."""
    steps: int
    """Real steps."""
    out: Path
    """Run folder; one that holds something already is never overwritten."""
    policy: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="(default: random actions)")] = None
    """What acts, exploring: the run folder of an agent, or a zip of Stable-Baselines3 (see --algorithm)."""
    algorithm: Annotated[str | None, arg(aliases=["--algo"], metavar="STR", help_behavior_hint="(needed by a zip)")] = (
        None
    )
    """Of the zip: ppo, sac, ..., as in `mbrl-gym train dyna`. A zip can run code when it is loaded: trust it first."""
    seed: Annotated[
        int | None, arg(metavar="INT", help_behavior_hint="(default: a fresh one, which run.json records)")
    ] = None
    """Of the first reset and of the actions."""
    device: str = "auto"
    """A torch device, or auto."""
    threads: int = 1
    """CPU threads of torch."""

    def run(self) -> int:
        """Run the command."""
        from mbrl_gym.cli.record import run_record

        return run_record(self)


@dataclass(frozen=True)
class Export(Common):
    """Take the newest model out of a run, as a learned environment, and its policy where Stable-Baselines3 can read it.

    Of a run that was stopped in the middle, that is what its agent last saved.
    """

    folder: Positional[Path]
    """Run folder."""
    out: Path
    """Folder for model and policy.zip; one that holds something already is never overwritten."""
    publish: Annotated[str | None, arg(metavar="STR", help_behavior_hint="(default: not published)")] = None
    """Also publish the model under this id, as in Learned-MyPendulum-v0, for gym.make in any later process."""
    device: str = "auto"
    """A torch device, or auto."""

    def run(self) -> int:
        """Run the command."""
        from mbrl_gym.cli.export import run_export

        return run_export(self)


@dataclass(frozen=True)
class Evaluate(Common):
    """Let a stored agent play whole episodes in the real environment; writes evaluation.json into its folder."""

    folder: Positional[Path]
    """Run folder, or an agent's checkpoint in one."""
    episodes: int = 20
    """Whole episodes."""
    dream: bool = False
    """Also play in the learned environment of the run."""
    env: Annotated[str | None, arg(metavar="STR", help_behavior_hint="(default: the run's own)")] = None
    """Id of the real environment."""
    seed: int = 10_000
    """Of the first episode's reset; the next ones count up."""
    json: bool = False
    """Print the JSON instead of the summary."""
    device: str = "auto"
    """A torch device, or auto."""
    threads: int = 1
    """CPU threads of torch."""

    def run(self) -> int:
        """Run the command."""
        from mbrl_gym.cli.evaluate import run_evaluate

        return run_evaluate(self)


@dataclass(frozen=True)
class Report(Common):
    """Judge a learned model: writes report.html (one page), its figures and report.json, and prints the numbers.

    How far its predictions are from reality, whether its uncertainty is right, and whether a policy earns in it what
    reality does not pay.
    """

    source: Positional[str]
    """Run folder of mbrl-gym train, a model's folder, or the id of a shipped or published model."""
    out: Annotated[
        Path | None, arg(metavar="PATH", help_behavior_hint="(default: report in the run, or ID-report)")
    ] = None
    """Folder of the report; files of the same names are replaced."""
    policy: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="(default: the run's; else random)")] = None
    """A policy as SB3 saved it (.zip). SB3 unpickles it, so it has to be a file that you trust."""
    algo: str = "ppo"
    """The algorithm that saved --policy, as in mbrl-gym train --algorithm."""
    checkpoints: tuple[Path, ...] = ()
    """Policies of one run, oldest first: .zip of --algo, run folders, or the folder of a CheckpointCallback of SB3.
    They are ranked, and the trend of their gap is shown."""
    env: Annotated[str | None, arg(metavar="STR", help_behavior_hint="(default: the model's own)")] = None
    """Id of the real environment."""
    episodes: int = 10
    """Real episodes of each policy, at least 2."""
    horizon: int = 30
    """Imagined steps that predictions are followed for."""
    steps: int = 1000
    """Steps of an episode at most."""
    seed: int = 10_000
    """Of the first episode's reset; the next ones count up."""
    check: bool = False
    """Exit with 1 where a rule fails."""
    device: str = "auto"
    """A torch device, or auto."""
    threads: int = 1
    """CPU threads of torch."""

    def run(self) -> int:
        """Run the command."""
        from mbrl_gym.cli.report import run_report

        return run_report(self)


@dataclass(frozen=True)
class Play(Common):
    """Play a learned environment in the browser, beside the real one, or let a policy play it.

    Keys are on the page. Nothing but this machine can connect unless --host says so.
    """

    id: Positional[str]
    """Id of a learned environment, as in Learned-CartPole-v1, or the folder of a model or of a run."""
    port: int = 8000
    """Of the page; 0 takes a free one."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets everybody in your network play."""
    browser: bool = True
    """Open the page."""
    real: bool = True
    """Show the real environment beside the dream, where it can be made."""
    policy: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="(default: nobody but you plays)")] = None
    """A policy that can play too: an SB3 zip (see --algo), or the folder of a run. Give files that you trust alone."""
    algo: Annotated[str | None, arg(metavar="STR", help_behavior_hint="(needed for a zip)")] = None
    """What made the zip: ppo, a2c, sac, td3, ddpg, dqn, ..., or module:Class."""
    record: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="(default: no recordings)")] = None
    """Folder that recordings go into."""
    fps: int = 15
    """Steps a second."""
    window: bool = False
    """Play in a window instead, the dream alone (needs a screen and pygame)."""

    def needs_screen(self) -> bool:
        """Return whether it opens a window."""
        return self.window

    def run(self) -> int:
        """Run the command."""
        from mbrl_gym.cli.play import run_play

        return run_play(self)


@dataclass(frozen=True)
class List(Common):
    """List the learned environments that are shipped with the library or were published on this machine."""

    def run(self) -> int:
        """Run the command."""
        from mbrl_gym.cli.listing import run_list

        return run_list()


Command = (
    Annotated[Demo, subcommand("demo")]
    | Annotated[Train, subcommand("train")]
    | Annotated[Record, subcommand("record")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Report, subcommand("report")]
    | Annotated[Play, subcommand("play")]
    | Annotated[Export, subcommand("export")]
    | Annotated[List, subcommand("list")]
)
