"""LeanSAC: the same numbers as Stable-Baselines3's SAC, the same files, and what it does where it cannot be lean."""

import contextlib
import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor, nn

from mbrl_gym.agents import sac_update as module
from mbrl_gym.agents.sac import LeanSAC

BATCH = 32
EYE = spaces.Box(-np.inf, np.inf, (5,), np.float32)


class Nowhere(gym.Env[Any, Any]):
    """An environment with the given spaces in which nothing is to be learned."""

    def __init__(self, observation_space: spaces.Space[Any] = EYE, n_actions: int = 2) -> None:
        self.observation_space = observation_space
        self.action_space = spaces.Box(-2, 2, (n_actions,), np.float32)
        self.observation_space.seed(0)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), float(action[0]), False, False, {}


class Batches:
    """A replay buffer that returns random batches from a generator of its own, the same for the same seed."""

    def __init__(self, space: spaces.Space[Any], discounts: bool, n_actions: int = 2, device: str = "cpu") -> None:
        self.space, self.discounts, self.n_actions, self.device = space, discounts, n_actions, device
        self.generator = torch.Generator().manual_seed(0)

    def _observations(self, rows: int) -> Tensor:
        if isinstance(self.space, spaces.Discrete):
            return torch.randint(0, int(self.space.n), (rows, 1), generator=self.generator)
        assert self.space.shape is not None
        return torch.randn(rows, *self.space.shape, generator=self.generator)

    def sample(self, batch_size: int, env: Any = None) -> ReplayBufferSamples:
        uniform = torch.rand(batch_size, self.n_actions + 3, generator=self.generator)
        columns = (
            self._observations(batch_size),
            2 * uniform[:, 3:] - 1,
            self._observations(batch_size),
            (uniform[:, :1] < 0.3).float(),
            4 * uniform[:, 1:2],
            0.9 + 0.1 * uniform[:, 2:3] if self.discounts else None,
        )
        return ReplayBufferSamples(*(None if x is None else x.to(self.device) for x in columns))  # type: ignore[arg-type]


def made(kind: type[SAC], *, discounts: bool = False, space: spaces.Space[Any] = EYE, **arguments: Any) -> SAC:
    arguments = {"seed": 1, "device": "cpu", "buffer_size": 10, "learning_rate": 1e-2, **arguments}
    arguments["policy_kwargs"] = {"net_arch": [16, 12], **arguments.get("policy_kwargs", {})}
    agent = kind("MlpPolicy", Nowhere(space), **arguments)
    return ready(agent, discounts=discounts)


def ready(agent: SAC, discounts: bool = False) -> SAC:
    agent.set_logger(Logger(None, []))
    agent.replay_buffer = Batches(agent.observation_space, discounts, device=str(agent.device))  # type: ignore[assignment]
    return agent


def trained(agent: SAC, steps: int = 7, seed: int = 3) -> SAC:
    torch.manual_seed(seed)
    agent.train(steps, BATCH)
    return agent


def tensors(agent: SAC) -> dict[str, Tensor]:
    """Everything that training changes, with optimisers' states, under SB3's names."""
    found = {}

    def walk(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                walk(f"{name}.{key}", item)
        elif isinstance(value, Tensor):
            found[name] = value.detach()

    walk("", agent.get_parameters())
    if agent.log_ent_coef is not None:
        found["log_ent_coef"] = agent.log_ent_coef.detach()
    return found


def assert_same(one: SAC, other: SAC, rtol: float = 2e-5, atol: float = 2e-6) -> None:
    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys()
    assert any(".exp_avg" in name for name in first)
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


def logged(agent: SAC) -> dict[str, Any]:
    return {name: float(value) for name, value in agent.logger.name_to_value.items()}


# ---- the same numbers -----------------------------------------------------------------------------------------------

CASES: dict[str, dict[str, Any]] = {
    "as SB3 makes it": {},
    "given start of the coefficient": {"ent_coef": "auto_0.3", "target_entropy": -0.5},
    "fixed coefficient": {"ent_coef": 0.2},
    "one critic": {"policy_kwargs": {"n_critics": 1}},
    "three critics": {"policy_kwargs": {"n_critics": 3}},
    "rare target updates": {"target_update_interval": 4, "tau": 0.3},
    "tau and gamma": {"tau": 0.1, "gamma": 0.5},
    "discounts": {"discounts": True},
    "other networks for actor and critics": {"policy_kwargs": {"net_arch": {"pi": [9], "qf": [20, 8, 8]}}},
    "linear actor": {"policy_kwargs": {"net_arch": {"pi": [], "qf": [8]}}},
    "linear critics": {"policy_kwargs": {"net_arch": {"pi": [8], "qf": []}}},
    "Adam's settings": {"policy_kwargs": {"optimizer_kwargs": {"betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}}},
    "shared extractor": {"policy_kwargs": {"share_features_extractor": True}},
    "rate that falls": {"learning_rate": lambda progress: 1e-2 * progress},
    "matrices": {"space": spaces.Box(-np.inf, np.inf, (3, 2), np.float32)},
    "numbers": {"space": spaces.Discrete(4)},
}


@pytest.mark.parametrize("name", CASES)
def test_training_gives_the_numbers_of_sb3(name: str) -> None:
    stock, lean = made(SAC, **CASES[name]), made(LeanSAC, **CASES[name])
    assert lean.fallback is None  # type: ignore[attr-defined]
    before = {key: value.clone() for key, value in tensors(lean).items()}
    for seed, progress in enumerate((1.0, 0.4)):
        for agent in (stock, lean):
            agent._current_progress_remaining = progress
            trained(agent, seed=seed)
        assert_same(stock, lean)
        assert logged(lean) == pytest.approx(logged(stock), rel=1e-4, abs=1e-6)
        assert logged(lean).keys() == logged(stock).keys()
    assert all(not torch.equal(value, tensors(lean)[key]) for key, value in before.items())  # all has been trained


@pytest.mark.parametrize("log_std", [-30.0, 5.0])
def test_a_clipped_standard_deviation_has_no_gradient(log_std: float) -> None:
    agents = []
    for kind in (SAC, LeanSAC):
        agent = made(kind)
        with torch.no_grad():
            agent.actor.log_std.bias[0] = log_std  # type: ignore[operator, index]
        agents.append(trained(agent, 1))
    if log_std > 0:  # at std = exp(-20) SB3's way from the sum mean + std * noise back to the noise is all rounding
        assert_same(*agents, rtol=1e-4, atol=1e-5)
    assert agents[1].actor.log_std.bias[0].item() == log_std  # type: ignore[operator, index, arg-type]
    assert agents[1].actor.log_std.bias[1].item() != 0  # type: ignore[operator, index, arg-type]


def test_learning_in_an_environment_is_that_of_sb3() -> None:
    agents = []
    for kind in (SAC, LeanSAC):
        agent = kind("MlpPolicy", "Pendulum-v1", seed=5, learning_starts=20, gradient_steps=2, device="cpu")
        agents.append(agent.learn(50))
    assert agents[0]._n_updates == agents[1]._n_updates > 0
    assert_same(agents[0], agents[1], rtol=1e-3, atol=1e-4)
    observation = np.ones(3, np.float32)
    np.testing.assert_allclose(
        agents[0].predict(observation, deterministic=True)[0],
        agents[1].predict(observation, deterministic=True)[0],
        rtol=1e-3,
    )


def test_the_same_seed_gives_the_same_bits() -> None:
    one, other = (trained(made(LeanSAC)) for _ in range(2))
    assert_same(one, other, rtol=0, atol=0)
    different = trained(made(LeanSAC), seed=4)
    assert not torch.equal(tensors(one)[".policy.actor.mu.weight"], tensors(different)[".policy.actor.mu.weight"])


@pytest.mark.parametrize("hidden", [[], [7], [16, 12]])
def test_going_back_through_all_critics_has_the_same_result(hidden: list[int]) -> None:
    arguments: Any = {"n_critics": 3, "net_arch": {"pi": [4], "qf": hidden}}  # rows of two of them only
    update = made(LeanSAC, policy_kwargs=arguments)._update  # type: ignore[attr-defined]
    tape = update._tape(update.critics, "critics", 50)
    tape.input.normal_()
    with torch.no_grad():
        update.critics.forward(tape)
        chosen = torch.arange(50) ** 2 % 3
        by_member = update.critics._slope_by_member(tape, chosen, 5)
        assert by_member.shape == (50, 2)
        torch.testing.assert_close(update.critics._slope_of_all(tape, chosen, 5), by_member)


# ---- files, states, memory ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ent_coef", ["auto", 0.1])
@pytest.mark.parametrize("after", [0, 5])
@pytest.mark.parametrize(("writer", "reader"), [(LeanSAC, SAC), (SAC, LeanSAC), (LeanSAC, LeanSAC)])
def test_a_file_of_one_is_read_by_the_other(
    writer: type[SAC], reader: type[SAC], after: int, ent_coef: Any, tmp_path: Path
) -> None:
    saved = made(writer, ent_coef=ent_coef)
    if after:
        trained(saved, after)
    saved.replay_buffer = None
    saved.save(tmp_path / "agent.zip")
    loaded = reader.load(tmp_path / "agent.zip", env=Nowhere(), device="cpu")
    assert type(loaded) is reader
    observation = np.ones((4, 5), np.float32)
    same = [agent.predict(observation, deterministic=True)[0] for agent in (saved, loaded)]
    np.testing.assert_allclose(*same, rtol=1e-6)
    assert_same(trained(ready(saved)), trained(ready(loaded)))
    assert loaded._n_updates == after + 7


def test_a_stock_agent_learns_on_from_a_file(tmp_path: Path) -> None:
    LeanSAC("MlpPolicy", "Pendulum-v1", learning_starts=10, device="cpu").learn(20).save(tmp_path / "agent.zip")
    stock = SAC.load(tmp_path / "agent.zip", env=gym.make("Pendulum-v1"), device="cpu")
    assert type(stock) is SAC
    assert "_update" not in vars(stock)
    stock.learn(20, reset_num_timesteps=False)
    assert stock.actor.optimizer.state_dict()["state"][0]["step"] > 10


def test_the_file_holds_every_number_once(tmp_path: Path) -> None:
    sizes = []
    for kind in (SAC, LeanSAC):
        agent = trained(made(kind, policy_kwargs={"net_arch": [64, 64]}))
        agent.replay_buffer = None
        agent.save(tmp_path / kind.__name__)
        sizes.append((tmp_path / f"{kind.__name__}.zip").stat().st_size)
    assert sizes[1] < 1.05 * sizes[0]


def test_the_modules_own_views_of_the_flat_memory() -> None:
    agent = trained(made(LeanSAC))
    update = agent._update  # type: ignore[attr-defined]
    flat = update.critics.parameters.flat
    assert sum(p.numel() for p in agent.critic.parameters()) == flat.numel()
    flat.zero_()
    assert all(not p.any() for p in agent.critic.parameters())
    agent.policy.load_state_dict(made(SAC, seed=9).policy.state_dict())
    assert flat.any()  # a copy in place: nothing has moved
    assert not update.open()


def move_parameters(agent: SAC) -> None:
    for parameter in agent.policy.parameters():
        parameter.data = parameter.data.clone()


def move_coefficient(agent: SAC) -> None:
    assert agent.log_ent_coef is not None
    agent.log_ent_coef.data = agent.log_ent_coef.data.clone()


def reload_optimizers(agent: SAC) -> None:
    agent.set_parameters(copy.deepcopy(agent.get_parameters()))


def step_by_hand(agent: SAC) -> None:
    for optimizer in (agent.actor.optimizer, agent.critic.optimizer):
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()


@pytest.mark.parametrize("act", [move_parameters, move_coefficient, reload_optimizers, step_by_hand])
def test_what_others_do_to_the_networks_is_not_lost(act: Any) -> None:
    stock, lean = trained(made(SAC)), trained(made(LeanSAC))
    for agent in (stock, lean):
        act(agent)
        trained(agent, seed=4)
    assert_same(stock, lean, rtol=1e-4, atol=1e-5)


def test_other_parameters_can_be_set_after_training() -> None:
    source = trained(made(SAC, seed=8))
    agents = [trained(made(kind)) for kind in (SAC, LeanSAC)]
    for agent in agents:
        agent.set_parameters(copy.deepcopy(source.get_parameters()))
        trained(agent, seed=4)
    assert_same(*agents)


def test_the_agent_that_parameters_came_from_goes_its_own_way() -> None:
    source, agent = trained(made(LeanSAC, seed=8)), made(LeanSAC)
    agent.set_parameters(source.get_parameters())  # torch's optimisers then hold the very tensors of the source
    before = copy.deepcopy(source.get_parameters())
    trained(agent)
    assert str(source.get_parameters()) == str(before)


def test_any_batch_size_and_any_number_of_steps() -> None:
    stock, lean = made(SAC), made(LeanSAC)
    for agent in (stock, lean):
        torch.manual_seed(0)
        for steps, rows in ((1, 32), (2, 8), (1, 32), (1, 1)):
            agent.train(steps, rows)
    assert_same(stock, lean, rtol=1e-4, atol=1e-5)


# ---- where it is not lean -------------------------------------------------------------------------------------------


class Muon(torch.optim.Adam):
    """Some other optimiser."""


class OwnCritics(SAC.policy_aliases["MlpPolicy"]):  # type: ignore[misc]
    def make_critic(self, features_extractor: Any = None) -> Any:
        critic = super().make_critic(features_extractor)
        critic.__class__ = type("Own", (type(critic),), {})
        return critic


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"use_sde": True}, "gSDE"),
        ({"policy_kwargs": {"activation_fn": nn.Tanh}}, "Tanh layers"),
        ({"policy_kwargs": {"optimizer_class": torch.optim.AdamW}}, "plain Adam"),
        ({"policy_kwargs": {"optimizer_class": Muon}}, "plain Adam"),
        ({"policy_kwargs": {"optimizer_kwargs": {"amsgrad": True}}}, "plain Adam"),
        ({"policy": OwnCritics}, "not SB3's own class"),
    ],
)
def test_what_is_not_covered_is_trained_by_sb3(arguments: dict[str, Any], reason: str) -> None:
    arguments = {"policy": "MlpPolicy", "seed": 1, "device": "cpu", "buffer_size": 10, **arguments}
    stock, lean = (ready(kind(env=Nowhere(), **arguments)) for kind in (SAC, LeanSAC))
    assert reason in lean.fallback  # type: ignore[attr-defined]
    assert_same(trained(stock, 2), trained(lean, 2), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("policy", "space"),
    [
        ("CnnPolicy", spaces.Box(0, 255, (3, 36, 36), np.uint8)),
        ("MultiInputPolicy", spaces.Dict({"eye": EYE})),
    ],
)
def test_images_and_dictionaries_are_trained_by_sb3(policy: str, space: spaces.Space[Any]) -> None:
    agent = LeanSAC(policy, Nowhere(space), learning_starts=2, buffer_size=20, batch_size=4, seed=0, device="cpu")
    assert "not FlattenExtractor" in str(agent.fallback)
    assert agent.learn(4)._n_updates == 2


class Bootstrapped(LeanSAC):
    """TD targets from two draws of the next action."""

    def _td_target(self, batch: ReplayBufferSamples, entropy_coefficient: Tensor) -> Tensor:
        assert self._update is not None
        draws = []
        for _ in range(2):
            following = self._update.sample(batch.next_observations)
            values = self._update.target_values(batch.next_observations, following.actions).mean(dim=0)
            draws.append(batch.rewards + values - entropy_coefficient * following.log_prob)
        return (draws[0] + draws[1]) / 2


def test_a_subclass_brings_targets_of_its_own() -> None:
    own, plain = trained(made(Bootstrapped), 1), trained(made(LeanSAC), 1)
    name = ".policy.critic.qf0.0.weight"
    assert not torch.equal(tensors(own)[name], tensors(plain)[name])
    with pytest.raises(ValueError, match=r"TD targets of its own, .* has no place, but .* Tanh layers"):
        made(Bootstrapped, policy_kwargs={"activation_fn": nn.Tanh})


def test_the_target_is_that_of_the_formula() -> None:
    agent: Any = made(LeanSAC, gamma=0.8)
    batch = agent.replay_buffer.sample(12)
    coefficient = torch.tensor([0.7])
    agent._update.open()
    torch.manual_seed(2)
    with torch.no_grad():
        target = agent._td_target(batch, coefficient)
        torch.manual_seed(2)
        actions, log_prob = agent.actor.action_log_prob(batch.next_observations)
        lowest = torch.cat(agent.critic_target(batch.next_observations, actions), 1).amin(1, keepdim=True)
        wanted = batch.rewards + (1 - batch.dones) * 0.8 * (lowest - 0.7 * log_prob.reshape(-1, 1))
    torch.testing.assert_close(target, wanted)
    assert batch.dones.any()
    assert not batch.dones.all()


# ---- CUDA graphs ----------------------------------------------------------------------------------------------------


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """CUDA's graphs on the CPU: a capture remembers the update, and a replay makes it on the same tensors."""
    said: list[str] = []
    update = module.LeanUpdate.__call__

    class Graph:
        def replay(self) -> None:
            said.append("replay")
            self.make()

    @contextlib.contextmanager
    def capture(graph: Any) -> Any:
        said.append("capture")

        def noting(self: Any, batch: Any) -> None:
            graph.make = lambda: update(self, batch)

        with monkeypatch.context() as patch:
            patch.setattr(module.LeanUpdate, "__call__", noting)
            yield

    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, value in {
        "CUDAGraph": Graph,
        "graph": capture,
        "Stream": lambda device: stream,
        "stream": lambda s: contextlib.nullcontext(),
        "current_stream": lambda device: stream,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return said


def graphed() -> Any:
    agent: Any = made(LeanSAC)
    assert not agent._step.enabled  # there is no GPU
    agent._step.enabled = True
    return agent


def test_a_graph_makes_the_updates_that_are_left(pretended: list[str]) -> None:
    plain, agent = made(LeanSAC), graphed()
    for seed in range(2):
        assert_same(trained(plain, seed=seed), trained(agent, seed=seed), rtol=0, atol=0)
        assert logged(plain) == logged(agent)
    assert pretended == ["capture"] + ["replay"] * (14 - module.WARM_UP)


def test_another_kind_of_batch_or_other_constants_have_another_graph(pretended: list[str]) -> None:
    plain, agent = made(LeanSAC), graphed()
    for gamma, rows, captures in ((0.9, 8, 1), (0.9, 16, 2), (0.9, 8, 2), (0.5, 8, 3)):
        for each in (plain, agent):
            each.gamma = gamma
            torch.manual_seed(0)
            each.train(5, rows)
        assert_same(plain, agent, rtol=0, atol=0)
        assert pretended.count("capture") == captures


def test_moved_memory_voids_the_graph(pretended: list[str]) -> None:
    plain, agent = trained(made(LeanSAC)), trained(graphed())
    for each in (plain, agent):
        reload_optimizers(each)
        trained(each, seed=4)
    assert_same(plain, agent, rtol=0, atol=0)
    assert pretended.count("capture") == 2


def test_what_cannot_be_captured_is_updated_as_ever(pretended: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(graph: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph", refuse)
    plain, agent = trained(made(LeanSAC)), graphed()
    with pytest.warns(UserWarning, match="cannot be a CUDA graph and is made step by step: operation not permitted"):
        trained(agent)
    assert_same(plain, agent, rtol=0, atol=0)
    assert not agent._step.enabled


def test_only_the_target_that_reads_nothing_else_is_captured() -> None:
    for kind, device, wanted in ((LeanSAC, "cuda", True), (Bootstrapped, "cuda", False), (LeanSAC, "cpu", False)):
        agent: Any = made(kind)
        agent.device = torch.device(device)
        assert agent._may_be_graphed() is wanted


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_graph_makes_the_updates_of_sb3() -> None:
    stock, lean = made(SAC, device="cuda"), made(LeanSAC, device="cuda")
    for seed in range(2):
        trained(stock, seed=seed)
        trained(lean, seed=seed)
        assert_same(stock, lean, rtol=1e-3, atol=1e-4)
    assert lean._step.enabled  # type: ignore[attr-defined]
    assert lean._step._graphs  # type: ignore[attr-defined]
