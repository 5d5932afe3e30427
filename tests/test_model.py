"""imagine, trajectory_return and believe on worlds that can be computed by hand."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.model import ModelLoss, Prediction, WorldModel, imagine, trajectory_return
from mbrl_gym.spaces import Observation
from mbrl_gym.tensors import TensorStruct


@dataclass(frozen=True)
class CounterConfig:
    """A counter ends when it passes ``limit`` and breaks when it passes ``broken``."""

    limit: float = 1e9
    broken: float = 1e9
    noise: float = 0.0


@dataclass(frozen=True)
class Count(TensorStruct):
    value: Tensor
    particle: Tensor
    seen: Tensor  # [B, 3]: the last action, is_first and the number of observations


class Counter(WorldModel[Count]):
    """value' = value + action; the reward is the new value plus the particle's number."""

    config_class = CounterConfig
    context = 2

    def __init__(self, config: CounterConfig | None = None) -> None:
        box = spaces.Box(-10, 10, (1,), np.float32)
        super().__init__(box, spaces.Box(-1, 1, (1,), np.float32), config or CounterConfig())
        self.gain = nn.Parameter(torch.ones(()))

    def initial(self, batch_size: int) -> Count:
        return Count(torch.zeros(batch_size), torch.zeros(batch_size), torch.zeros(batch_size, 3))

    def observe(
        self,
        state: Count,
        action: Tensor,
        obs: Observation,
        is_first: Tensor,
        generator: torch.Generator | None = None,
    ) -> Count:
        assert isinstance(obs, Tensor)
        seen = torch.stack([action[:, 0], is_first.float(), state.seen[:, 2] + 1], dim=1)
        return Count(obs[:, 0], state.particle, seen)

    def predict(
        self,
        state: Count,
        action: Tensor,
        generator: torch.Generator | None = None,
        sample: bool = True,
        uncertainty: bool = True,
    ) -> tuple[Count, Prediction]:
        value = state.value + self.gain * action[:, 0]
        if sample and self.config.noise:
            value = value + self.config.noise * torch.randn(value.shape, generator=generator)
        zeros, diverged = torch.zeros_like(value), value > self.config.broken
        step = Prediction(
            reward=value + state.particle,
            terminated=value > self.config.limit,
            truncated=diverged,
            continuation=torch.sigmoid(self.config.limit - value),
            uncertainty=zeros + float(uncertainty),
            info={"diverged": diverged} if self.config.broken < 1e9 else {},
        )
        return Count(value, state.particle, state.seen), step

    def features(self, state: Count) -> Tensor:
        return state.value[:, None]

    def decode(self, state: Count) -> Observation:
        return state.value[:, None]

    def branch(self, state: Count, n: int) -> Count:
        rows = state.repeat(n)
        return Count(rows.value, torch.arange(n).repeat(state.batch_size).float(), rows.seen)

    def loss(self, batch: SequenceBatch, start: Count | None = None) -> ModelLoss[Count]:
        return ModelLoss(self.gain.square(), {})


def starts(*values: float) -> Count:
    return Count(torch.tensor(values), torch.zeros(len(values)), torch.zeros(len(values), 3))


def ones(state: Count) -> Tensor:
    return torch.ones(state.batch_size, 1)


def test_imagine_by_hand() -> None:
    rollout = imagine(Counter(), starts(0, 10), ones, horizon=3)
    assert rollout.states.value.tolist() == [[0, 1, 2, 3], [10, 11, 12, 13]]
    assert rollout.prediction.reward.tolist() == [[1, 2, 3], [11, 12, 13]]
    assert rollout.action.shape == (2, 3, 1)
    assert rollout.prediction.uncertainty.tolist() == [[1] * 3] * 2
    assert rollout.alive.all()


def test_the_policy_acts_on_the_state_before() -> None:
    rollout = imagine(Counter(), starts(1, 2), lambda state: state.value[:, None], horizon=3)
    assert rollout.action[..., 0].tolist() == [[1, 2, 4], [2, 4, 8]]
    assert rollout.states.value.tolist() == [[1, 2, 4, 8], [2, 4, 8, 16]]


def test_alive_counts_the_step_that_ends_and_none_after() -> None:
    ends = imagine(Counter(CounterConfig(limit=1.5)), starts(0, 10, -10), ones, horizon=4)
    assert ends.alive.tolist() == [[True, True, False, False], [True, False, False, False], [True] * 4]
    breaks = imagine(Counter(CounterConfig(broken=1.5)), starts(0), ones, horizon=4)
    assert breaks.alive.tolist() == [[True, True, False, False]]


def test_gradients_flow_through_model_policy_and_time() -> None:
    model, weight = Counter(), torch.tensor(2.0, requires_grad=True)
    rollout = imagine(model, starts(0), lambda state: weight.expand(state.batch_size, 1), horizon=3)
    rollout.prediction.reward.sum().backward()  # (1 + 2 + 3) * gain * weight
    assert weight.grad is not None
    assert model.gain.grad is not None
    assert weight.grad.item() == 6.0
    assert model.gain.grad.item() == 12.0


def test_imagine_passes_its_switches_on() -> None:
    model = Counter(CounterConfig(noise=1.0))
    first, again = (imagine(model, starts(0), ones, 3, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first.states.value, again.states.value)
    assert first.states.value.tolist() != [[0, 1, 2, 3]]
    assert imagine(model, starts(0), ones, 3, sample=False).states.value.tolist() == [[0, 1, 2, 3]]
    assert not imagine(model, starts(0), ones, 3, uncertainty=False).prediction.uncertainty.any()


def test_imagine_refuses_no_horizon() -> None:
    with pytest.raises(ValueError, match="horizon must be at least 1 imagined step, got 0"):
        imagine(Counter(), starts(0), ones, 0)


def plan(*rows: list[float]) -> Tensor:
    return torch.tensor(rows)[..., None]


def test_return_and_discount_by_hand() -> None:
    actions = plan([1.0, 1.0, 1.0], [0.0, 2.0, 0.0])
    assert trajectory_return(Counter(), starts(0, 10), actions).tolist() == [6.0, 10.0 + 12.0 + 12.0]
    assert trajectory_return(Counter(), starts(0, 10), actions, discount=0.5).tolist() == [1 + 1 + 0.75, 10 + 6 + 3]


def test_the_step_that_ends_counts_and_none_after() -> None:
    model = Counter(CounterConfig(limit=1.5))
    assert trajectory_return(model, starts(0, 10), plan([1.0, 1, 1], [1.0, 1, 1])).tolist() == [3.0, 11.0]


def test_particles_are_averaged_and_keep_their_row() -> None:
    # Particle p adds p to each reward: the mean of 0, 1, 2, 3 is 1.5 a step.
    got = trajectory_return(Counter(), starts(0, 10), plan([1.0, 1.0], [2.0, 2.0]), particles=4)
    assert got.tolist() == [1 + 2 + 2 * 1.5, 12 + 14 + 2 * 1.5]


def test_a_diverged_particle_makes_its_row_nan_and_no_other() -> None:
    model = Counter(CounterConfig(broken=1.5))
    got = trajectory_return(model, starts(0, -10), plan([1.0, 1, 1], [1.0, 1, 1]), particles=2)
    assert got.isnan().tolist() == [True, False]


def test_divergence_after_the_end_does_not_count() -> None:
    model = Counter(CounterConfig(limit=1.5, broken=2.5))
    assert trajectory_return(model, starts(0), plan([1.0, 1.0, 1.0])).tolist() == [3.0]


def test_rewards_after_the_end_cannot_poison_the_return() -> None:
    model = Counter(CounterConfig(limit=1.5))
    got = trajectory_return(model, starts(0), plan([1.0, 1.0, float("nan")]))
    assert got.tolist() == [3.0]


def test_return_passes_its_switches_on() -> None:
    model = Counter(CounterConfig(noise=1.0))
    actions = plan([1.0, 1.0])
    first, again = (
        trajectory_return(model, starts(0), actions, generator=torch.Generator().manual_seed(1)) for _ in range(2)
    )
    assert first == again != 3.0
    assert trajectory_return(model, starts(0), actions, sample=False) == 3.0


@pytest.mark.parametrize(
    ("actions", "particles", "message"),
    [
        (torch.zeros(1, 3), 1, r"actions must be \[B, H, A\] with H at least 1 and the B = 1 of start, got \(1, 3\)"),
        (torch.zeros(1, 0, 1), 1, r"actions must be \[B, H, A\].* got \(1, 0, 1\)"),
        (torch.zeros(2, 3, 1), 1, r"actions must be \[B, H, A\].* got \(2, 3, 1\)"),
        (torch.zeros(1, 3, 1), 0, "particles must be at least 1, got 0"),
    ],
)
def test_return_refuses(actions: Tensor, particles: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trajectory_return(Counter(), starts(0), actions, particles)


def test_believe_filters_the_context_in_order() -> None:
    obs, action = plan([1.0, 2.0, 3.0]), plan([0.1, 0.2, 0.9])
    state = Counter().believe(obs, action)
    assert state.value.tolist() == [3.0]
    assert state.seen.tolist() == [pytest.approx([0.2, 0.0, 3.0])]  # the action that led here, not the unused last one
    assert Counter().believe(obs[:, :1], action[:, :1]).seen[0, 1] == 1.0


def test_the_defaults_of_a_single_network() -> None:
    model = Counter()
    batch = SequenceBatch(*[torch.zeros(1, 2)] * 7)
    assert model.holdout_error(batch).tolist() == [1.0]
    assert model.member_parameters() == frozenset()
    assert model.members == 1
    assert model.device.type == "cpu"
    plain = WorldModel.branch(model, starts(1, 2), 2)
    assert plain.value.tolist() == [1, 1, 2, 2]


def test_the_device_of_a_model_without_parameters() -> None:
    model = Counter()
    del model.gain
    assert model.device.type == "cpu"
    model.register_buffer("data", torch.ones(1, device="meta"))
    assert model.device.type == "meta"
