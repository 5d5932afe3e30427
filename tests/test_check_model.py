"""check_model: planted faults are found, each by its own rule, and a healthy model passes."""

from dataclasses import replace

import gymnasium as gym
import pytest
from pendulums import ENV, cheated, fitted, flipped, overconfident, pump, recorded, stale
from test_report import Counter, Toy, counter_replay

from mbrl_gym.report import Noisy, Report, ReportConfig, Verdict, check_model, evaluate
from mbrl_gym.report.summary import verdict_table
from mbrl_gym.store import load_model
from mbrl_gym.zoo import shipped_models

LITTLE = ReportConfig(horizon=10, ahead=5, windows=500, segments=60, particles=16, episodes=3, seed=1)


@pytest.fixture(scope="session")
def healthy():
    """A model of random and of energetic swinging."""
    return fitted(recorded([None, pump]), updates=1200)


@pytest.fixture(scope="session")
def held_out():
    """Random actions that no model here was trained on."""
    return recorded([None], 3, seed=5000)


@pytest.fixture(scope="session")
def report(healthy, held_out):
    return evaluate(healthy, held_out, pump, env=ENV, config=LITTLE)


def judged(model, data, policy=pump):
    return check_model(model, data, policy, env=ENV, config=LITTLE)


def failures(verdicts):
    return {verdict.rule.split(" (")[0] for verdict in verdicts if verdict.level == "fail"}


def test_a_healthy_model_passes_every_rule(report):
    verdicts = check_model(report)
    assert [v for v in verdicts if v.level != "pass"] == []
    assert {v.rule.split(" (")[0] for v in verdicts} == {
        "one-step prediction",
        "normaliser",
        "reward",
        "reward sign",
        "coverage",
        "uncertainty",
        "newest policy's data",
        "exploitation",
        "policy ranking",
    }
    assert all(v.remedy == "" for v in verdicts)


def test_a_flipped_reward_is_found_by_its_sign(healthy, held_out):
    found = failures(judged(flipped(healthy), held_out))
    assert {"reward", "reward sign"} <= found
    assert not found & {"one-step prediction", "normaliser", "newest policy's data"}


@pytest.mark.parametrize(("shift", "scale"), [(6.0, 1.0), (0.0, 0.15)])
def test_a_stale_normaliser_is_found(healthy, held_out, shift, scale):
    found = failures(judged(stale(healthy, shift, scale), held_out))
    assert {"normaliser", "one-step prediction"} <= found
    assert "newest policy's data" not in found


def test_overconfidence_is_found_by_coverage_alone(healthy, held_out):
    assert failures(judged(overconfident(healthy, 36.0), held_out)) == {"coverage"}


def test_a_model_of_another_policys_data_is_found_on_the_newest(held_out):
    foreign = fitted(recorded([None]), updates=700)
    report = evaluate(foreign, held_out, pump, env=ENV, config=LITTLE)
    found = failures(check_model(report))
    assert "newest policy's data" in found
    assert not found & {"one-step prediction", "normaliser", "reward", "reward sign", "coverage"}
    assert report.familiarity.auroc > 0.7  # and the model knows


def test_the_alarm_is_raised_by_a_policy_that_cheats_a_weak_model(held_out):
    weak = fitted(recorded([None], 1, steps=100), updates=300, members=2)
    cheat = cheated(weak, held_out.starts(kind="resets"))
    gap = evaluate(weak, held_out, cheat, env=ENV, config=LITTLE).exploitation
    assert gap.alarm
    assert gap.missing > 0.5
    assert gap.dream > gap.real + 200


def test_the_alarm_is_not_raised_by_the_same_search_in_a_good_model(held_out):
    good = load_model(shipped_models()["Learned-Pendulum-v1"], "cpu").model
    honest = cheated(good, held_out.starts(kind="resets"))
    gap = evaluate(good, held_out, honest, env=ENV, policies={}, config=LITTLE).exploitation
    assert not gap.alarm
    assert abs(gap.missing) < 0.1


# ---- single rules ---------------------------------------------------------------------------------------------------


def test_a_model_as_good_as_none_fails():
    verdicts = check_model(Toy(moves=0.0), counter_replay())
    assert "one-step prediction" in failures(verdicts)
    (exact,) = [v for v in check_model(Toy(), counter_replay()) if v.rule.startswith("one-step")]
    assert exact.level == "pass"
    assert exact.value < 1e-3


def changed(report, **sections):
    """The report with sections of its old data replaced by changed ones."""
    old = report.data[0]
    parts = {name: replace(getattr(old, name), **values) for name, values in sections.items()}
    return replace(report, data=(replace(old, **parts), *report.data[1:]))


def level(report, rule):
    (verdict,) = [v for v in check_model(report) if v.rule.startswith(rule)]
    assert (verdict.level == "pass") == (verdict.remedy == "")
    return verdict.level


@pytest.mark.parametrize(
    ("section", "rule", "name", "values"),
    [
        ("reward", "reward (", "r2", (0.95, 0.8, 0.4)),
        ("reward", "reward sign", "wrong_signs", (0.005, 0.03, 0.2)),
        ("normaliser", "normaliser", "misfit", (2.0, 3.0, 5.0)),
    ],
)
def test_thresholds_of_the_old_data(report, section, rule, name, values):
    levels = [level(changed(report, **{section: {name: value}}), rule) for value in values]
    assert levels == ["pass", "warn", "fail"]


def test_thresholds_of_ends(report):
    for recall, precision, expected in ((0.95, 0.95, "pass"), (0.8, 1.0, "warn"), (1.0, 0.3, "fail")):
        ends = {"ends": 20, "recall": recall, "precision": precision}
        assert level(changed(report, termination=ends), "termination") == expected
    assert level(changed(report, termination={"ends": 9, "recall": 0.0, "precision": float("nan")}), "term") == "fail"
    few = check_model(changed(report, termination={"ends": 4, "recall": 0.0}))
    assert not [v for v in few if v.rule.startswith("termination")]


def test_thresholds_of_behaviour(report):
    for ratio, expected in ((2.0, "pass"), (3.0, "warn"), (6.0, "fail")):
        other = replace(report, familiarity=replace(report.familiarity, error_ratio=ratio))
        assert level(other, "newest policy's data") == expected
    for tau, expected in ((1.0, "pass"), (0.3, "warn"), (-0.3, "fail")):
        assert level(replace(report, ranking=replace(report.ranking, kendall=tau)), "policy ranking") == expected
    broken = replace(report.exploitation, matched=replace(report.exploitation.matched, broken=1))
    assert level(replace(report, exploitation=broken), "diverged dreams") == "warn"


# ---- evaluate -------------------------------------------------------------------------------------------------------


def test_data_may_be_recorded_or_played(report, healthy):
    assert [data.name for data in report.data] == ["recorded data", "policy"]
    assert report.data[1].transitions == 600
    assert report.missing == {}
    assert report.names == ("cos θ", "sin θ", "velocity [rad/s]")
    told = []
    env = gym.make(ENV)
    played = evaluate(healthy, env, pump, config=LITTLE, on_progress=told.append)
    assert [data.name for data in played.data] == ["random actions", "policy"]
    assert any("3 real episodes of policy" in line for line in told)
    env.reset()  # which is still open
    alone = evaluate(healthy, ENV, config=LITTLE)
    assert [data.name for data in alone.data] == ["random actions"]
    assert alone.exploitation is not None
    assert "no policy but random actions" in alone.missing["ranking"]
    assert alone.familiarity is None


def test_what_cannot_be_measured_is_said():
    found = evaluate(Toy(), counter_replay())
    assert found.missing == dict.fromkeys(found.missing, "there is no real environment to play in; give env")
    assert set(found.missing) == {"exploitation", "ranking"}
    (data,) = found.data
    assert "a Toy has no densities" in data.missing["calibration"]
    assert "model must draw its predictions" in data.missing["sampled"]
    assert "must differ between transitions" in data.missing["uncertainty"]
    assert (data.latent, data.normaliser, data.images) == (None, None, None)


def test_given_policies_are_ranked_instead(healthy, held_out):
    space = healthy.action_space
    three = {str(share): Noisy(pump if share < 1 else None, space, share) for share in (0.0, 0.5, 1.0)}
    little = replace(LITTLE, episodes=2)
    found = evaluate(healthy, held_out, env=ENV, policies=three, config=little)
    assert found.ranking.names == ("0.0", "0.5", "1.0")
    del three["0.5"]
    fewer = evaluate(healthy, held_out, env=ENV, policies=three, config=little)
    assert "at least 3 policies to rank, got 2" in fewer.missing["ranking"]


def test_a_report_is_reproducible(healthy):
    first, again, other = (
        evaluate(healthy, ENV, config=replace(LITTLE, episodes=2, seed=seed)).to_json() for seed in (1, 1, 2)
    )
    assert again == first
    assert other["exploitation"]["real"] != first["exploitation"]["real"]


def test_wrong_arguments_are_refused(healthy):
    with pytest.raises(TypeError, match="data must be a SequenceReplay, an environment or its id, got list"):
        evaluate(healthy, [])
    with pytest.raises(ValueError, match="env must have the model's spaces"):
        evaluate(healthy, "CartPole-v1")
    with pytest.raises(ValueError, match="env must have the model's spaces"):
        evaluate(healthy, Counter())


def test_verdicts_are_shown_as_a_table(report):
    assert isinstance(report, Report)
    bad = Verdict("reward (data)", "fail", 0.123, "fail below 0.5", "do this")
    text = verdict_table([*check_model(report)[:1], bad])
    assert text.splitlines()[-1] == "fail: reward (data): do this"
    assert "FAIL  reward (data)" in text
    assert "PASS  one-step prediction (recorded data)" in text
    assert bad.to_json()["level"] == "fail"
