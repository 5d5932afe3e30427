"""evaluate: everything that can be measured of a world model, in one report."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from mbrl_gym.data import Predict
from mbrl_gym.model import WorldModel
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.report.data_report import ReportConfig, familiarity, measure_data
from mbrl_gym.report.exploitation import exploitation_gap
from mbrl_gym.report.figures import dimension_names
from mbrl_gym.report.images import Locate
from mbrl_gym.report.matched import Matched, counted, matched_episodes, whole_episodes
from mbrl_gym.report.pictures import sees
from mbrl_gym.report.policies import SHARES, Noisy, noisy_policies, restarted
from mbrl_gym.report.ranking import policy_ranking
from mbrl_gym.report.record import Report, attempt
from mbrl_gym.report.returns import run_episodes
from mbrl_gym.report.trend import gap_trend

RANDOM, POLICY, RECORDED = "random actions", "policy", "recorded data"
NO_ENV = "there is no real environment to play in; give env"
NO_POLICIES = "there is no policy but random actions; give policy, or several as policies"


def evaluate(
    model: WorldModel[Any],
    data: SequenceReplay | gym.Env[Any, Any] | str,
    policy: Predict | None = None,
    *,
    env: gym.Env[Any, Any] | str | None = None,
    policies: Mapping[str, Predict] | None = None,
    checkpoints: Mapping[str, Predict] | None = None,
    objects: Mapping[str, Locate] | None = None,
    title: str = "",
    real_id: str | None = None,
    facts: Mapping[str, Any] | None = None,
    config: ReportConfig | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> Report:
    """Return how true a world model is: to recorded experience, to a policy, and to the order of several.

    Two sets of experience are judged: the old data, and the newest policy's. The old data is ``data``, or where that is
    an environment, episodes of random actions in it; the newest is the policy's own episodes in the environment (of
    random actions where there is no policy). The same episodes are what dreams are matched with.

    Args:
        model: any world model.
        data: recorded experience, better such as the model was not trained on; or the real environment, or its id.
        policy: an SB3 algorithm's or agent's ``predict``; better one that was trained in the model.
        env: the real environment or its id, where ``data`` is recorded.
        policies: at least 3 to rank, by name; None: the policy with several shares of random actions.
        checkpoints: policies of one run, by name, oldest first: they are ranked in place of ``policies``, and how the
            gap went from one to the next is told.
        objects: for pictures, functions that say where an object is, by its name (`mbrl_gym.report.images`).
        title: what is judged, one line.
        real_id: the real environment's id, which names the dimensions; None: that of the environment.
        facts: more to show of the model, by name.
        config: how much is measured; None: the defaults.
        on_progress: called with what is done next.

    Raises:
        TypeError: ``data`` is of another kind.
        ValueError: an environment has other spaces than the model, nothing in the data is long enough, or there are
            fewer than 3 ``policies``, or both these and ``checkpoints`` are given.
    """
    if policies is not None and checkpoints is not None:
        raise ValueError("policies must be left out with checkpoints, which are ranked themselves; give one of the two")
    config, tell = config or ReportConfig(), on_progress or (lambda _: None)
    if not isinstance(data, SequenceReplay | gym.Env | str):
        raise TypeError(f"data must be a SequenceReplay, an environment or its id, got {type(data).__name__}")
    replay = data if isinstance(data, SequenceReplay) else None
    given = env if isinstance(data, SequenceReplay) else data
    real = gym.make(given) if isinstance(given, str) else given
    _check_spaces(model, real)
    real_id = real_id or (real.spec.id if real is not None and real.spec else None)
    missing: dict[str, str] = {}
    try:
        stage = None if real is None else _Stage(model, real, config, tell)
        played = {} if stage is None else stage.play({RANDOM: Noisy(None, model.action_space, seed=config.seed)})
        if stage is not None and policy is not None:
            played |= stage.play({POLICY: policy})
        newest = next(reversed(played.values()), None)
        sets = [(RECORDED, replay)] if replay is not None else [(RANDOM, played[RANDOM].replay)]
        if newest is not None and newest.replay is not sets[0][1]:
            sets.append((next(reversed(played)), newest.replay))
        reports = []
        for name, recorded in sets:
            tell(f"judging predictions on {name}")
            reports.append(measure_data(model, recorded, name, config, objects))
        near = None
        if len(sets) > 1:
            near = familiarity(model, sets[0][1], sets[1][1], (reports[0], reports[1]), config.seed)
        sections = _behaviour(stage, played, policy, policies, checkpoints, missing)
    finally:
        if isinstance(given, str) and real is not None:
            real.close()
    return Report(
        title=title or f"A world model of {real_id or 'an environment'}",
        facts={**_facts(model), **(facts or {})},
        names=() if sees(model) else tuple(dimension_names(real_id, model.observation_space)),
        data=tuple(reports),
        familiarity=near,
        missing=missing,
        **sections,
    )


def _behaviour(
    stage: "_Stage | None",
    played: dict[str, "_Played"],
    policy: Predict | None,
    policies: Mapping[str, Predict] | None,
    checkpoints: Mapping[str, Predict] | None,
    missing: dict[str, str],
) -> dict[str, Any]:
    """Return the report's sections on how policies do in the dream, and note in ``missing`` why one is not there."""
    if stage is None:
        missing |= {"exploitation": NO_ENV, "ranking": NO_ENV}
        return {}
    newest = next(reversed(played.values()))
    found: dict[str, Any] = {
        "exploitation": attempt(
            missing, "exploitation", lambda: exploitation_gap(stage.match(newest), played[RANDOM].returns)
        )
    }
    rivals = attempt(missing, "ranking", lambda: stage.rivals(played, policy, checkpoints or policies))
    if rivals is not None:
        found["ranking"] = attempt(missing, "ranking", lambda: policy_ranking(rivals))
        if checkpoints:
            found["trend"] = attempt(missing, "trend", lambda: gap_trend(rivals))
    return found


@dataclass(frozen=True)
class _Played:
    """Real episodes of a policy.

    Attributes:
        predict: the policy, before its first episode.
        replay: the episodes.
        returns: what counts of them.
    """

    predict: Predict
    replay: SequenceReplay
    returns: list[float]


class _Stage:
    """Where policies play: reality, and the dream from where its episodes begin."""

    def __init__(
        self, model: WorldModel[Any], real: gym.Env[Any, Any], config: ReportConfig, tell: Callable[[str], None]
    ) -> None:
        limit = real.spec.max_episode_steps if real.spec else None
        self._model, self._real, self._config, self._tell = model, real, config, tell
        self._steps = min(config.episode_steps, limit or config.episode_steps)
        self._horizon = max(1, self._steps - model.context + 1)  # a dream begins that much later

    def play(self, policies: Mapping[str, Predict]) -> dict[str, _Played]:
        """Return real episodes of each policy."""
        return {name: self._play(name, predict) for name, predict in policies.items()}

    def _play(self, name: str, predict: Predict) -> _Played:
        episodes, seed = self._config.episodes, self._config.seed
        self._tell(f"{episodes} real episodes of {name}")
        capacity = episodes * (self._steps + 2) + 2
        replay = SequenceReplay(self._model.observation_space, self._model.action_space, capacity)
        run_episodes(restarted(predict), self._real, episodes, seed, replay, max_steps=self._steps)
        whole = whole_episodes(replay)
        returns = [float(counted(episode, self._model.context, self._horizon).sum()) for episode in whole]
        return _Played(predict, replay, returns)

    def match(self, played: _Played) -> Matched:
        """Return the pairs of the policy's real episodes and its dreams."""
        self._tell("the same episodes in the dream")
        return matched_episodes(
            self._model, whole_episodes(played.replay), played.predict, self._horizon, self._config.seed
        )

    def rivals(
        self, played: dict[str, _Played], policy: Predict | None, policies: Mapping[str, Predict] | None
    ) -> dict[str, Matched]:
        """Return the pairs of each policy that is to be ranked.

        Raises:
            ValueError: there is nothing to rank.
        """
        if policies is None:
            if policy is None:
                raise ValueError(NO_POLICIES)
            between = tuple(share for share in SHARES if 0 < share < 1)
            noisy = noisy_policies(policy, self._model.action_space, between, self._config.seed)
            entries = {POLICY: played[POLICY], **self.play(noisy), RANDOM: played[RANDOM]}
        else:
            entries = self.play(policies)
        return {name: self.match(entry) for name, entry in entries.items()}


def _check_spaces(model: WorldModel[Any], real: gym.Env[Any, Any] | None) -> None:
    """Raise unless the environment's spaces are the model's."""
    if real is None:
        return
    found, wanted = (real.observation_space, real.action_space), (model.observation_space, model.action_space)
    if found != wanted:
        raise ValueError(f"env must have the model's spaces {wanted[0]} and {wanted[1]}, got {found[0]} and {found[1]}")


def _facts(model: WorldModel[Any]) -> dict[str, Any]:
    names, inner = [type(model).__name__], model
    while isinstance(getattr(inner, "inner", None), WorldModel):
        inner = inner.inner  # type: ignore[assignment]
        names.append(type(inner).__name__)
    return {
        "model": " around ".join(names),
        "parameters": sum(p.numel() for p in model.parameters()),
        "members": model.members,
        "context": model.context,
    }
