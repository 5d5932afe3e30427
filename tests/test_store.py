import json
import pickle
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from mbrl_gym import Ensemble, StoredModel, load_model, save_model
from mbrl_gym.checkpoint import (
    Checkpoint,
    CheckpointError,
    CorruptCheckpoint,
    ForeignCheckpoint,
    MissingCheckpoint,
    load_checkpoint,
    save_checkpoint,
)
from mbrl_gym.store import load_shared, model_from_json, model_to_json, pick_device
from mbrl_gym.tasks import register_reward, table
from mbrl_gym.tensors import TensorStruct
from mbrl_gym.wrappers import KnownReward, KnownTermination
from worlds import DICT, PUSH, Walk, WalkConfig, walk_starts


def same(a: TensorStruct, b: TensorStruct):
    return all(torch.equal(x, y) for x, y in zip(a.tensors(), b.tensors(), strict=True))


def steps_of(stored, seed=0, steps=5):
    """Beliefs and predictions of a seeded dream."""
    generator = torch.Generator().manual_seed(seed)
    starts = stored.starts.sample(16, generator)
    state = stored.model.believe(starts.obs, starts.action, generator)
    found = []
    for _ in range(steps):
        action = stored.model.action_codec.sample(16, generator)
        state, prediction = stored.model.predict(state, action, generator)
        found += [state, prediction]
    return found


# Round trip


@pytest.mark.parametrize("name", ["pendulum", "cartpole"])
def test_a_loaded_model_predicts_bit_for_bit_what_the_saved_one_did(name, request, tmp_path):
    stored = request.getfixturevalue(name)
    version = save_model(tmp_path / "model", stored)
    assert version.parent == tmp_path / "model"
    loaded = load_model(tmp_path / "model", "cpu")
    assert isinstance(loaded.model, Ensemble)
    assert all(same(a, b) for a, b in zip(steps_of(stored), steps_of(loaded), strict=True))
    assert loaded.model.config == stored.model.config
    assert loaded.model.observation_space == stored.model.observation_space
    assert loaded.model.action_space == stored.model.action_space
    assert same(loaded.starts, stored.starts)
    assert (loaded.real_id, loaded.horizon, loaded.card) == (stored.real_id, stored.horizon, stored.card)
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())


def test_saving_leaves_the_model_as_it_was(pendulum, tmp_path):
    before = steps_of(pendulum)
    save_model(tmp_path / "model", pendulum)
    assert all(same(a, b) for a, b in zip(before, steps_of(pendulum), strict=True))


def test_numbers_may_be_kept_in_half_the_bytes(pendulum, tmp_path):
    whole, half = save_model(tmp_path / "whole", pendulum), save_model(tmp_path / "half", pendulum, torch.float16)
    sizes = [(version / "model.safetensors").stat().st_size for version in (whole, half)]
    assert sizes[1] < 0.6 * sizes[0]
    loaded = load_model(tmp_path / "half", "cpu").model.state_dict()
    for name, value in pendulum.model.state_dict().items():
        assert loaded[name].dtype == value.dtype
        rounded = value.half().to(value.dtype) if value.is_floating_point() else value
        assert torch.equal(loaded[name], rounded)


def test_a_newer_version_takes_the_place_of_an_older_one(pendulum, cartpole, tmp_path):
    save_model(tmp_path / "model", pendulum)
    save_model(tmp_path / "model", cartpole)
    assert load_model(tmp_path / "model", "cpu").real_id == "CartPole-v1"


def test_dictionary_starts_and_a_model_without_a_real_environment(tmp_path):
    model = Walk(DICT, PUSH, WalkConfig(ends_at=3.0))
    save_model(tmp_path / "model", StoredModel(model, walk_starts(model, 1.0, 2.0), None, 7, {"seeds": [1, 2]}))
    loaded = load_model(tmp_path / "model", "cpu", model_class=Walk)
    assert sorted(loaded.starts.obs) == ["kind", "place"]
    assert (loaded.real_id, loaded.card) == (None, {"seeds": [1, 2]})
    assert loaded.model.config == WalkConfig(ends_at=3.0)


def test_nothing_is_unpickled(pendulum, tmp_path, monkeypatch):
    save_model(tmp_path / "model", pendulum)

    def refuse(*args, **kwargs):
        raise AssertionError("something was unpickled")

    for owner, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(owner, name, refuse)
    load_model(tmp_path / "model", "cpu")


def test_a_pickle_in_the_place_of_the_arrays_is_refused(pendulum, tmp_path):
    class Trap:
        def __reduce__(self):
            return (exec, ("raise SystemExit('the pickle was run')",))

    version = save_model(tmp_path / "model", pendulum)
    np.savez(version / "starts.npz", obs=np.array([Trap()], dtype=object))
    with pytest.raises(CorruptCheckpoint):
        load_model(tmp_path / "model", "cpu")


# Third parties' classes


def test_a_third_partys_class_must_be_passed(tmp_path):
    model = Walk()
    save_model(tmp_path / "model", StoredModel(model, walk_starts(model, 1.0), None, 7))
    with pytest.raises(CheckpointError) as error:
        load_model(tmp_path / "model", "cpu")
    assert str(tmp_path / "model") in str(error.value)
    assert "the model's class 'worlds:Walk' is none of mbrl_gym's (" in str(error.value)
    assert "a file may not name what is imported; pass the class as model_class=" in str(error.value)
    assert load_model(tmp_path / "model", "cpu", model_class=Walk).horizon == 7
    assert load_shared(tmp_path / "model", "cpu", Walk).horizon == 7


def test_the_librarys_models_are_stored_by_a_name_of_their_own(pendulum):
    data = json.loads(json.dumps(model_to_json(pendulum.model)))
    assert data["class"] == "ensemble"
    assert model_from_json(data).config == pendulum.model.config


def test_a_class_that_does_not_fit_is_refused(pendulum, tmp_path):
    save_model(tmp_path / "model", pendulum)
    with pytest.raises(CheckpointError, match=r"cannot be rebuilt, .* do not fit this version's 'ensemble': TypeError"):
        load_model(tmp_path / "model", "cpu", model_class=Walk)

    @dataclass(frozen=True)
    class Short(WalkConfig):
        pass

    class Wider(Walk):
        config_class = Short

        def __init__(self, *args):
            super().__init__(*args)
            self.more = torch.nn.Parameter(torch.ones(1))

    model = Walk()
    save_model(tmp_path / "walk", StoredModel(model, walk_starts(model, 1.0), None, 7))
    with pytest.raises(CheckpointError, match=r"Missing key.*more"):
        load_model(tmp_path / "walk", "cpu", model_class=Wider)


# What is no model


def test_there_is_nothing(tmp_path):
    with pytest.raises(MissingCheckpoint, match="nothing"):
        load_model(tmp_path / "nothing", "cpu")
    with pytest.raises(MissingCheckpoint, match="nothing"):
        load_shared(tmp_path / "nothing", "cpu")


@pytest.mark.parametrize("name", ["model.safetensors", "starts.npz", "config.json"])
@pytest.mark.parametrize("damage", ["changed", "cut", "removed"])
def test_a_damaged_file_is_named(name, damage, pendulum, tmp_path):
    path = save_model(tmp_path / "model", pendulum) / name
    content = path.read_bytes()
    path.unlink()
    if damage == "changed":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptCheckpoint, match=name):
        load_model(tmp_path / "model", "cpu")


def test_another_kind_of_checkpoint_is_refused(tmp_path):
    save_checkpoint(tmp_path / "run", Checkpoint("dyna", {}))
    with pytest.raises(ForeignCheckpoint, match="dyna"):
        load_model(tmp_path / "run", "cpu")


@pytest.mark.parametrize("missing", ["model", "real_id", "horizon", "card"])
def test_a_model_that_lacks_a_part_is_refused(missing, pendulum, tmp_path):
    save_model(tmp_path / "model", pendulum)
    good = load_checkpoint(tmp_path / "model")
    config = {key: value for key, value in good.config.items() if key != missing}
    save_checkpoint(tmp_path / "model", Checkpoint("model", config, good.tensors, good.arrays))
    with pytest.raises(CheckpointError, match=f"cannot be rebuilt, .* KeyError: '{missing}'"):
        load_model(tmp_path / "model", "cpu")


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick_device(torch.device("cpu")) == torch.device("cpu")


# Wrapped models


def test_a_wrapped_model_is_stored_with_its_wrappers(pendulum, tmp_path):
    model = KnownReward(KnownTermination(pendulum.model, "Pendulum-v1"), "Pendulum-v1")
    data = json.loads(json.dumps(model_to_json(model)))
    assert (data["class"], data["arguments"]) == ("known_reward", {"reward": "Pendulum-v1"})
    assert (data["inner"]["class"], data["inner"]["inner"]["class"]) == ("known_termination", "ensemble")
    stored = replace(pendulum, model=model)
    save_model(tmp_path / "model", stored)
    for loaded in (load_model(tmp_path / "model", "cpu"), load_shared(tmp_path / "model", "cpu")):
        assert all(same(a, b) for a, b in zip(steps_of(stored), steps_of(loaded), strict=True))
        assert not any(p.requires_grad for p in loaded.model.parameters())
        assert not loaded.model.unwrapped.training


def test_a_wrapped_model_of_a_third_party_needs_its_class(tmp_path):
    model = KnownReward(Walk(), "CartPole-v1")
    save_model(tmp_path / "model", StoredModel(model, walk_starts(model, 1.0), None, 7))
    with pytest.raises(CheckpointError, match="the model's class 'worlds:Walk' is none of mbrl_gym's"):
        load_model(tmp_path / "model", "cpu")
    loaded = load_model(tmp_path / "model", "cpu", model_class=Walk).model
    assert type(loaded.unwrapped) is Walk
    assert loaded.reward == "CartPole-v1"


def test_a_name_that_this_process_does_not_know_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "_REWARDS", dict(table._REWARDS))
    register_reward("mine", lambda obs, action, next_obs: next_obs[..., 0])
    model = KnownReward(Walk(), "mine")
    save_model(tmp_path / "model", StoredModel(model, walk_starts(model, 1.0), None, 7))
    assert load_model(tmp_path / "model", "cpu", model_class=Walk).model.reward == "mine"
    del table._REWARDS["mine"]
    with pytest.raises(CheckpointError, match=r"reward is known, got 'mine'; .*register it with mbrl_gym.tasks.reg"):
        load_model(tmp_path / "model", "cpu", model_class=Walk)


def test_a_third_partys_wrapper_is_refused_before_anything_is_written(tmp_path):
    class Own(KnownReward):
        pass

    model = Own(Walk(), "CartPole-v1")
    with pytest.raises(ValueError, match=r"wrapped by mbrl_gym's own wrappers .*Own; store its unwrapped model"):
        save_model(tmp_path / "model", StoredModel(model, walk_starts(model, 1.0), None, 7))
    assert not (tmp_path / "model").exists()
