"""k-step open-loop prediction: a model replays recorded actions and never sees reality again.

One legend of shapes: W windows, C rows of context, K imagined steps, D encoded observation dimensions, P particles.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.horizon_error import centre, deviation, roll, scale, seeded
from mbrl_gym.model import WorldModel
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.report.section import Section
from mbrl_gym.spaces import ObservationCodec

Array = np.ndarray[Any, np.dtype[Any]]

BAND = (0.1, 0.9)


@dataclass(frozen=True)
class OpenLoopError(Section):
    """Errors after k = 1 ... K imagined steps, in units of the data's standard deviation of each dimension.

    ``overall`` is the root mean square over dimensions; bands are the 10 % and 90 % quantiles over windows.

    Attributes:
        error: [K, D] root mean square over windows.
        low: [K, D] 10 % quantile of the absolute error.
        high: [K, D] 90 % quantile.
        persistence: [K, D] the error of predicting that nothing changes.
        mean: [K, D] the error of always predicting the data's mean: that of a model which knows nothing of the moment.
        overall: [K].
        overall_low: [K].
        overall_high: [K].
        overall_persistence: [K].
        overall_mean: [K].
        reward: [K] root mean square error of the reward, in units of its standard deviation.
        scale: [D] those standard deviations, in the observation's units.
        windows: W, how many segments of reality were predicted.
    """

    error: Array
    low: Array
    high: Array
    persistence: Array
    mean: Array
    overall: Array
    overall_low: Array
    overall_high: Array
    overall_persistence: Array
    overall_mean: Array
    reward: Array
    scale: Array
    windows: int

    @property
    def horizon(self) -> int:
        """K, the number of imagined steps."""
        return len(self.overall)

    @property
    def baseline(self) -> Array:
        """[K] the overall error of the better one of the two predictions that need no model."""
        return np.minimum(self.overall_persistence, self.overall_mean)

    @property
    def useful(self) -> int:
        """How many steps in a row the model is better than both: 0 ... K."""
        worse = np.flatnonzero(self.overall >= self.baseline)
        return int(worse[0]) if len(worse) else self.horizon


@dataclass(frozen=True)
class OpenLoopTrace(Section):
    """One recorded segment and what the model makes of it; row 0 is the last real observation that the model saw.

    Attributes:
        real: [K + 1, D].
        predicted: [K + 1, D] the mean prediction.
        low: [K + 1, D] 10 % quantile of sampled predictions.
        high: [K + 1, D] 90 % quantile.
        error: the overall error after K steps, in standard deviations.
    """

    real: Array
    predicted: Array
    low: Array
    high: Array
    error: float


def open_loop_error(
    model: WorldModel[Any], replay: SequenceReplay, horizon: int = 30, windows: int = 500, seed: int = 0
) -> OpenLoopError:
    """Return how far the mean prediction is from recorded reality after 1 ... ``horizon`` recorded actions.

    Windows lie within one episode. A prediction of termination does not stop the rollout.

    Args:
        model: any world model of vector observations.
        replay: real experience, better such as the model was not trained on.
        horizon: K.
        windows: segments at most, drawn without replacement; fewer where the replay has fewer.
        seed: of the draw and of what the model draws when it forms its belief.

    Raises:
        ValueError: no episode in the replay is long enough, a number is below 1, or the observations are images.
    """
    codec = ObservationCodec(replay.observation_space)
    batch = _draw(model, replay, horizon, windows, seed)
    real, predicted, reward = roll(model, codec, batch, seeded(model, seed), sample=False)
    unit = scale(codec, replay, seed).to(real.device)
    error = (predicted[:, 1:] - real[:, 1:]).abs() / unit  # [W, K, D]
    still = (real[:, :1] - real[:, 1:]).abs() / unit
    average = (centre(codec, replay, seed).to(real.device) - real[:, 1:]).abs() / unit
    per_window = error.square().mean(-1).sqrt()  # [W, K]
    band, overall_band = _band(error), _band(per_window)
    real_reward = batch.reward[:, model.context :]  # [W, K]
    reward_error = (reward - real_reward).square().mean(0).sqrt() / deviation(real_reward.reshape(-1, 1))
    return OpenLoopError(
        error=_array(error.square().mean(0).sqrt()),
        low=_array(band[0]),
        high=_array(band[1]),
        persistence=_array(still.square().mean(0).sqrt()),
        mean=_array(average.square().mean(0).sqrt()),
        overall=_array(error.square().mean((0, 2)).sqrt()),
        overall_low=_array(overall_band[0]),
        overall_high=_array(overall_band[1]),
        overall_persistence=_array(still.square().mean((0, 2)).sqrt()),
        overall_mean=_array(average.square().mean((0, 2)).sqrt()),
        reward=_array(reward_error),
        scale=_array(unit),
        windows=batch.batch_size,
    )


def open_loop_trace(
    model: WorldModel[Any],
    replay: SequenceReplay,
    horizon: int = 30,
    windows: int = 500,
    particles: int = 200,
    seed: int = 0,
) -> OpenLoopTrace:
    """Return a typical one of the segments that `open_loop_error` draws, and not one in which nothing happens.

    It is that with the median error after K steps among the livelier half, in which the observation varies the most.

    Args:
        model: any world model of vector observations.
        replay: real experience.
        horizon: K.
        windows: segments to choose from.
        particles: P, sampled rollouts for the band; each forms a belief of its own.
        seed: of all draws.

    Raises:
        ValueError: as `open_loop_error`.
    """
    codec = ObservationCodec(replay.observation_space)
    batch, generator = _draw(model, replay, horizon, windows, seed), seeded(model, seed)
    real, predicted, _ = roll(model, codec, batch, generator, sample=False)
    unit = scale(codec, replay, seed).to(real.device)
    final = ((predicted[:, -1] - real[:, -1]) / unit).square().mean(-1).sqrt()  # [W]
    motion = (real / unit).var(1, unbiased=False).sum(-1)  # [W]
    lively = motion.argsort(descending=True)[: (len(final) + 1) // 2]
    typical = int(lively[final[lively].argsort()[(len(lively) - 1) // 2]])
    segment = batch[torch.full((particles,), typical, device=final.device)]  # [P, ...]
    _, sampled, _ = roll(model, codec, segment, generator, sample=True)
    low, high = _band(sampled)
    return OpenLoopTrace(
        _array(real[typical]), _array(predicted[typical]), _array(low), _array(high), float(final[typical])
    )


def _draw(model: WorldModel[Any], replay: SequenceReplay, horizon: int, windows: int, seed: int) -> SequenceBatch:
    """Return ``windows`` windows of C + K rows on the model's device."""
    for name, value in (("horizon", horizon), ("windows", windows)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    length = model.context + horizon
    starts = replay.windows(length)
    if len(starts) == 0:
        raise ValueError(
            f"replay must hold an episode of at least {length} rows to predict {horizon} steps, got {len(replay)} rows "
            f"with {replay.n_transitions} transitions; lower horizon or collect longer episodes"
        )
    order = np.random.default_rng(seed).permutation(len(starts))[:windows]
    return replay.gather(starts[np.sort(order)], length, device=model.device)


def _band(x: Tensor) -> Tensor:
    """Return [2, ...]: the quantiles over the leading axis."""
    return torch.quantile(x, torch.tensor(BAND, dtype=x.dtype, device=x.device), dim=0)


def _array(x: Tensor) -> Array:
    return x.detach().cpu().numpy().copy()
