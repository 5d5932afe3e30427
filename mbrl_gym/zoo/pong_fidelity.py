"""How true a model of Pong is: single steps, open loops, players in the dream and in reality, the acceptance test.

Screens are those of `mbrl_gym.zoo.pong`. N screens.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from mbrl_gym.envs.vector import LearnedVectorEnv
from mbrl_gym.models.video import VideoModel
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.start_states import StartStates
from mbrl_gym.zoo.pong import Policy, Random, Screens, Sweep, ball, follow, make_real, paddle, still


@dataclass(frozen=True)
class OneStep:
    """Of single steps on recorded screens.

    Attributes:
        recall: share of the balls that were drawn within 2 pixels.
        false_balls: share of the screens without a ball on which one was drawn.
        wrong_pixels: of 33,600.
        rewards: recorded.
        found: of them predicted.
        false_rewards: predicted where there were none.
    """

    recall: float
    false_balls: float
    wrong_pixels: float
    rewards: int
    found: int
    false_rewards: int


@torch.no_grad()
def one_step(model: VideoModel, replay: SequenceReplay, count: int, seed: int, batch: int = 32) -> OneStep:
    """Return how well single steps from ``count`` recorded contexts are predicted."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    found: list[np.ndarray[Any, Any]] = []
    for _ in range(0, count, batch):
        rows = replay.sample(batch, model.context + 1, rng)
        assert isinstance(rows.obs, torch.Tensor)
        belief = model.believe(rows.obs[:, :-1], rows.action[:, :-1], generator)
        after, step = model.predict(belief, rows.action[:, -2], generator)
        drawn, true = (x.numpy().reshape(-1, 210, 160) for x in (model.decode(after), rows.obs[:, -1]))
        here, there = ball(true), ball(drawn)
        with np.errstate(invalid="ignore"):
            hit = np.abs(here - there).max(1) <= 2
        wrong = (drawn != true).sum((1, 2))
        columns = (~np.isnan(here[:, 0]), ~np.isnan(there[:, 0]), hit, wrong, step.reward, rows.reward[:, -1])
        found.append(np.stack([np.asarray(c, float) for c in columns], 1))
    there_is, drawn_is, hits, wrongs, predicted, recorded = np.concatenate(found).T
    rewarded = recorded != 0
    return OneStep(
        recall=float(hits[there_is > 0].mean()),
        false_balls=float(drawn_is[there_is == 0].mean()),
        wrong_pixels=float(wrongs.mean()),
        rewards=int(rewarded.sum()),
        found=int((rewarded & (predicted == recorded)).sum()),
        false_rewards=int((~rewarded & (predicted != 0)).sum()),
    )


@torch.no_grad()
def alive(model: VideoModel, replay: SequenceReplay, count: int, steps: int, seed: int) -> dict[str, list[float]]:
    """Return in which share of open loops, and of the recordings that they follow, there is a ball after each step."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    rows = replay.sample(count, model.context + steps, rng)
    assert isinstance(rows.obs, torch.Tensor)
    state = model.believe(rows.obs[:, : model.context], rows.action[:, : model.context], generator)
    shares: dict[str, list[float]] = {"dream": [], "real": []}
    for t in range(model.context, model.context + steps):
        state, _ = model.predict(state, rows.action[:, t - 1], generator)
        for name, screens in (("dream", model.decode(state)), ("real", rows.obs[:, t])):
            places = ball(screens.numpy().reshape(-1, 210, 160))
            shares[name].append(float((~np.isnan(places[:, 0])).mean()))
    return shares


@dataclass(frozen=True)
class Played:
    """What a policy met.

    Attributes:
        steps: over all games.
        reward_rate: a step.
        longest_absence: steps that a game was without a ball.
        longest_without_paddle: steps that a game was without the player's paddle.
        longest_standstill: steps that a screen did not change at all.
    """

    steps: int
    reward_rate: float
    longest_absence: int
    longest_without_paddle: int
    longest_standstill: int


class _Count:
    """Longest runs of something, game by game."""

    def __init__(self, games: int) -> None:
        self.now, self.longest = np.zeros(games, int), 0

    def add(self, happens: np.ndarray[Any, Any]) -> None:
        self.now = np.where(happens, self.now + 1, 0)
        self.longest = max(self.longest, int(self.now.max()))


class _Watch:
    """What is missing on the screens of games that are played at once, and for how long."""

    def __init__(self, games: int) -> None:
        self.games, self.steps, self.total = games, 0, 0.0
        self.ball, self.paddle, self.change = (_Count(games) for _ in range(3))

    def add(self, before: Screens, screens: Screens, reward: float) -> None:
        """Take note of a step to ``screens`` [games, 210, 160] and its rewards, summed over games."""
        self.steps += 1
        self.total += reward
        self.ball.add(np.isnan(ball(screens)[:, 0]))
        self.paddle.add(np.isnan(paddle(screens)))
        self.change.add((screens == before).all((1, 2)))

    def played(self) -> Played:
        """Return what was met."""
        steps = self.steps * self.games
        return Played(steps, self.total / steps, self.ball.longest, self.paddle.longest, self.change.longest)


def play_dream(model: VideoModel, starts: StartStates, policy: Policy, steps: int, games: int, seed: int) -> Played:
    """Return what ``policy`` meets in ``games`` dreams of ``steps`` steps each, never restarted."""
    env, watch = LearnedVectorEnv(model, starts, games, horizon=steps + 1), _Watch(games)
    screens = env.reset(seed=seed)[0].reshape(games, 210, 160)
    for _ in range(steps):
        before = screens
        obs, reward, *_ = env.step(policy(screens))
        screens = obs.reshape(games, 210, 160)
        watch.add(before, screens, float(reward.sum()))
    return watch.played()


def play_real(policy: Policy, steps: int, seed: int) -> Played:
    """Return what ``policy`` meets in the real game."""
    env, watch = make_real(), _Watch(1)
    obs, _ = env.reset(seed=seed)
    for _ in range(steps):
        before = obs
        obs, reward, terminated, truncated, _ = env.step(int(policy(obs)[0]))
        if terminated or truncated:
            obs, _ = env.reset()
        watch.add(before, obs, float(reward))
    env.close()
    return watch.played()


def fidelity(
    model: VideoModel,
    starts: StartStates,
    held_out: SequenceReplay,
    steps: int = 3200,
    games: int = 16,
    samples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the table of a model: single steps, open loops, and four players in the dream and in reality.

    Args:
        model: of the screen.
        starts: contexts that dreams begin from.
        held_out: real experience that it was not trained on.
        steps: of each policy in each of the ``games``; as many in all in reality.
        games: dreams at once.
        samples: single steps; an eighth as many open loops.
        seed: of everything.
    """
    shares = alive(model, held_out, max(samples // 8, 1), 50, seed)
    policies: dict[str, Callable[[], Policy]] = {
        "no-op": lambda: still,
        "random": lambda: Random(np.random.default_rng(seed)),
        "follow": lambda: follow,
        "sweep": Sweep,
    }
    played = {}
    for name, make in policies.items():
        dream = play_dream(model, starts, make(), steps, games, seed)
        played[name] = {"dream": asdict(dream), "real": asdict(play_real(make(), steps * games, seed))}
    return {
        "one_step": asdict(one_step(model, held_out, samples, seed)),
        "alive": {str(k): {name: share[k - 1] for name, share in shares.items()} for k in (1, 5, 10, 20, 30, 50)},
        "played": played,
    }


@dataclass(frozen=True)
class Row:
    """A line of the acceptance test.

    Attributes:
        what: is measured.
        value: as text.
        bar: as text.
        ok: whether it is met.
    """

    what: str
    value: str
    bar: str
    ok: bool


def acceptance(measured: dict[str, Any]) -> list[Row]:
    """Return the acceptance test of a model of Pong on what `fidelity` measured."""
    one, alive, played = measured["one_step"], measured["alive"]["50"], measured["played"]
    judged = ("no-op", "random", "follow")  # a sweep is there for the paddle
    dream = {name: played[name]["dream"]["reward_rate"] for name in judged}
    real = {name: played[name]["real"]["reward_rate"] for name in judged}
    unarmed = max(row["dream"]["longest_without_paddle"] for row in played.values())
    gone = max(row["dream"]["longest_absence"] for row in played.values())
    still = max(row["dream"]["longest_standstill"] for row in played.values())
    rows = [
        Row("ball drawn within 2 pixels, one step", f"{one['recall']:.3f}", "at least 0.98", one["recall"] >= 0.98),
        Row(
            "ball on the screen after 50 steps of open loop",
            f"{alive['dream']:.2f} (real {alive['real']:.2f})",
            "within 10 %",
            abs(alive["dream"] - alive["real"]) <= 0.1 * alive["real"],
        ),
        Row("longest absence of the ball, steps", f"{gone}", "at most 30", gone <= 30),
        Row("longest absence of the player's paddle, steps", f"{unarmed}", "at most 3 (real 1)", unarmed <= 3),
        Row("longest standstill of the screen, steps", f"{still}", "at most 30", still <= 30),
    ]
    for name in judged:
        value = f"{dream[name]:+.4f} (real {real[name]:+.4f})"
        close = abs(dream[name] - real[name]) <= 0.3 * abs(real[name])
        rows.append(Row(f"reward a step, {name}", value, "within 30 %", close))
    order = sorted(judged, key=lambda name: real[name])
    found = sorted(judged, key=lambda name: dream[name])
    rows.append(Row("order of these players", " < ".join(found), " < ".join(order), found == order))
    return rows
