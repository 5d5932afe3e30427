"""GraphedUpdate: what is captured, copied and replayed, with a stand-in for CUDA graphs, and with them if there are."""

from dataclasses import replace

import pytest
import torch
from gymnasium import spaces
from torch.utils._python_dispatch import TorchDispatchMode

from mbrl_gym.agents import graphed_update as module
from mbrl_gym.agents.actor_critic import ActorCritic, BehaviorConfig
from mbrl_gym.agents.dreamer_learner import DreamerLearner
from mbrl_gym.agents.model_learner import ModelLearner, OptimizerConfig
from mbrl_gym.batch import SequenceBatch
from mbrl_gym.models.rssm import RSSM
from mbrl_gym.models.rssm_config import RSSMConfig

CONFIG = RSSMConfig(deter=16, hidden=8, stoch=4, classes=4, units=16, layers=1)
LAPROP = OptimizerConfig(learning_rate=1e-2, warmup=4)
ADAM = OptimizerConfig("adam", 1e-2, 1e-3, 1e-3, clip=100.0, warmup=5)
OPTIMIZERS = pytest.mark.parametrize("optimizer", [LAPROP, ADAM], ids=["laprop", "adam"])


def learner(optimizer=LAPROP, device="cpu", **behavior):
    torch.manual_seed(0)
    space = spaces.Dict(camera=spaces.Box(0, 255, (16, 16, 3), "uint8"), speed=spaces.Box(-1.0, 1.0, (2,)))
    model = RSSM(space, spaces.Discrete(2), replace(CONFIG, depth=2)).to(device)
    actor_critic = ActorCritic(32, model.action_codec, BehaviorConfig(units=16, horizon=3, **behavior)).to(device)
    return DreamerLearner(model, actor_critic, optimizer)


def batches(count, stored=True, rows=6, device="cpu"):
    """Batches [3, rows], and beliefs of their first rows."""
    blank, found = learner().model.initial(3), []
    torch.manual_seed(1)
    for i in range(count):
        flags = torch.rand(3, 3, rows) < 0.1
        obs = {"camera": torch.randint(256, (3, rows, 16, 16, 3), dtype=torch.uint8), "speed": torch.rand(3, rows, 2)}
        action = torch.eye(2)[torch.randint(2, (3, rows))]
        index = torch.arange(3 * rows).view(3, rows) + i
        batch = SequenceBatch(
            obs, action, torch.randn(3, rows), *flags, index, None, {"deter": torch.rand(3, rows, 16)}
        )
        start = blank.map(torch.rand_like).to(device) if stored else None
        found.append((batch.to(device), start))
    return found


def states_of(made):
    """All numbers that a learner changes."""
    found = [*made.model.state_dict().values(), *made.behavior.state_dict().values()]
    return found + [x for s in made.optimizer.state.values() for x in s.values()]


def equal(xs, ys):
    return len(xs) == len(ys) and all(torch.equal(x, y) for x, y in zip(xs, ys, strict=True))


def updated(made, pairs, seed=2):
    torch.manual_seed(seed)
    return [made.update(batch, start) for batch, start in pairs]


@pytest.fixture
def pretended(monkeypatch):
    """CUDA's graphs on the CPU: a replay does the work again and leaves the results in the first one's memory."""
    said = []

    def capture(work):
        said.append("capture")
        kept = []

        def replay():
            said.append("replay")
            states, terms = work()
            kept.append((states, terms)) if not kept else None
            for mine, new in zip(kept[0][0].tensors(), states.tensors(), strict=True):
                mine.copy_(new)
            for name, value in terms.items():
                kept[0][1][name].copy_(value)
            return kept[0]

        return replay

    monkeypatch.setattr(module, "capture", capture)
    monkeypatch.setattr(module, "aside", lambda work, device: work())
    return said


@OPTIMIZERS
@pytest.mark.parametrize("stored", [True, False])
def test_replays_are_the_updates_step_by_step(optimizer, stored, pretended):
    plain, graphed = learner(optimizer), learner(optimizer)
    assert not plain._graphed.enabled
    graphed._graphed.enabled = True
    pairs = batches(8, stored)
    given = [[x.clone() for x in batch.tensors()] for batch, _ in pairs]
    wanted, got = updated(plain, pairs), updated(graphed, pairs)
    assert pretended == ["capture"] + ["replay"] * 5
    for (states, terms), (mine, said) in zip(wanted, got, strict=True):  # later replays leave earlier results alone
        assert equal(states.tensors(), mine.tensors())
        assert terms.keys() == said.keys()
        assert equal(list(terms.values()), list(said.values()))
    assert equal(states_of(plain), states_of(graphed))
    assert plain.updates == graphed.updates == 8
    assert all(equal(before, batch.tensors()) for before, (batch, _) in zip(given, pairs, strict=True))


def test_models_alone_are_updated_likewise(pretended):
    plain, graphed = (ModelLearner(learner().model, ADAM) for _ in range(2))
    graphed._graphed.enabled = True
    for made in (plain, graphed):
        updated(made, batches(6, stored=False))
    assert "replay" in pretended
    assert equal(list(plain.model.state_dict().values()), list(graphed.model.state_dict().values()))


def test_other_shapes_are_updated_as_ever(pretended):
    plain, graphed = learner(), learner()
    graphed._graphed.enabled = True
    pairs = [*batches(5), *batches(2, rows=4), *batches(1)]
    updated(plain, pairs), updated(graphed, pairs)
    assert pretended == ["capture"] + ["replay"] * 3
    assert equal(states_of(plain), states_of(graphed))


def test_loading_captures_anew(pretended):
    made = learner()
    made._graphed.enabled = True
    updated(made, batches(5))
    made.load_state_dict(made.state_dict())
    updated(made, batches(5))
    assert pretended == ["capture", "replay", "replay"] * 2


def test_what_cannot_be_captured_is_updated_as_ever(pretended, monkeypatch):
    def refuse(work):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(module, "capture", refuse)
    plain, graphed = learner(), learner()
    graphed._graphed.enabled = True
    pairs = batches(6)
    with pytest.warns(UserWarning, match="update cannot be a CUDA graph and is made step by step: operation not"):
        updated(graphed, pairs)
    updated(plain, pairs)
    assert equal(states_of(plain), states_of(graphed))
    assert not graphed._graphed.enabled


class NothingIsRead(TorchDispatchMode):
    """Refuses what makes the host wait for a device, or has a size that only the device knows."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique", "item")

    def __torch_dispatch__(self, function, types, given=(), named=None):
        name = function.overloadpacket.__name__
        assert name not in self.WAITS, f"{name} waits for the device"
        if name in ("index", "index_put", "index_put_"):
            assert all(x is None or x.dtype != torch.bool for x in given[1]), "a mask has a size that is not known"
        return function(*given, **(named or {}))


@OPTIMIZERS
@pytest.mark.parametrize("reinforce", [1.0, 0.5])
def test_an_update_reads_no_number_on_the_host(optimizer, reinforce, monkeypatch):
    """As far as the CPU can tell: its own checks in one_hot and its own Adam are left out."""

    def one_hot(index, classes):
        return torch.zeros(*index.shape, classes, dtype=torch.int64).scatter_(-1, index[..., None], 1)

    monkeypatch.setattr(torch.nn.functional, "one_hot", one_hot)
    made = learner(optimizer, reinforce=reinforce)
    if optimizer is ADAM:
        made.optimizer.step = lambda: None
    for batch, start in batches(2):
        with NothingIsRead():
            made._learn(batch, start)


def test_noise_is_the_default_generators():
    runs = [updated(learner(), batches(1), seed)[0][0].tensors() for seed in (2, 2, 3)]
    assert equal(runs[0], runs[1])
    assert not equal(runs[0], runs[2])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@OPTIMIZERS
def test_on_a_gpu_replays_are_the_updates_step_by_step(optimizer):
    plain, graphed = learner(optimizer, "cuda"), learner(optimizer, "cuda")
    plain._graphed.enabled = False
    pairs = batches(8, device="cuda")
    for made in (plain, graphed):
        updated(made, pairs)
    assert graphed._graphed.enabled
    for x, y in zip(states_of(plain), states_of(graphed), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-2, atol=1e-3)  # philox offsets agree; kernels may round otherwise
