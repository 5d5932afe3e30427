"""StochasticVideoConfig: the hyperparameters of `StochasticVideoModel`."""

from dataclasses import dataclass

SHARES = ("dropout", "hidden_dropout", "predictor_dropout", "bit_flips", "latent_share", "prior_share", "self_fed")
COUNTS = (
    "frames",
    "channels",
    "levels",
    "bits_at_once",
    "predictor",
    "inference_channels",
    "discretize_updates",
    "latent_updates",
    "prior_updates",
    "self_fed_updates",
)


@dataclass(frozen=True)
class StochasticVideoConfig:
    """Hyperparameters of `StochasticVideoModel`; the defaults are the paper's.

    Numbers of updates are those of the model after which what grows with them is whole (`mbrl_gym.schedules`).

    Source: tensorflow/tensor2tensor at bafdc1b, ``models/video/basic_stochastic.py``
    (next_frame_basic_stochastic_discrete) and ``models/video/basic_deterministic_params.py``.

    Attributes:
        frames: pictures that the next one is predicted from.
        channels: of the highest level.
        levels: times that height and width are halved.
        doublings: of them, the first ones, double the channels.
        dropout: of what goes into each level's convolution, in training.
        hidden_dropout: the same at the lowest level.
        clip: cross-entropy of a pixel's channel, in nats, that is right enough: it is taken off, and there is no
            gradient below it. The same for the reward.
        bits: of the latent.
        bits_at_once: predicted together, as one of 2 ** bits_at_once classes.
        predictor: size of the state of the recurrent network that predicts the bits.
        predictor_dropout: of its inputs and outputs, in training.
        temperature: that bits are drawn at.
        inference_channels: of the first convolution of the network that reads bits from the next picture, which has
            four times as many in the second.
        bit_noise: deviation of what is added before bits are made, in training.
        bit_flips: share of the bits that are turned around, in training.
        discretize_updates: updates until all bits are bits; before, more and more of them.
        latent_share: of the rows in training that see bits at all, so that actions are not left to the latent.
        latent_updates: updates until so many do.
        prior_share: of the bits in training that are predicted ones.
        prior_updates: updates until so many are.
        self_fed: share of the pictures in training that are the model's own.
        self_fed_updates: updates until so many are; exponentially in the first quarter, and linearly.

    Raises:
        ValueError: a value is out of its range.
    """

    frames: int = 4
    channels: int = 96
    levels: int = 6
    doublings: int = 3
    dropout: float = 0.15
    hidden_dropout: float = 0.5
    clip: float = 0.03
    bits: int = 128
    bits_at_once: int = 8
    predictor: int = 128
    predictor_dropout: float = 0.1
    temperature: float = 1.0
    inference_channels: int = 128
    bit_noise: float = 0.2
    bit_flips: float = 0.1
    discretize_updates: int = 40_000
    latent_share: float = 0.8
    latent_updates: int = 20_000
    prior_share: float = 0.5
    prior_updates: int = 40_000
    self_fed: float = 1.0
    self_fed_updates: int = 40_000

    def __post_init__(self) -> None:
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        for name in ("clip", "bit_noise"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")
        if self.channels < 4:
            raise ValueError(f"channels must be at least 4, a sine and a cosine of each side, got {self.channels}")
        if not 0 <= self.doublings <= self.levels:
            raise ValueError(f"doublings must be between 0 and the {self.levels} levels, got {self.doublings}")
        if self.bits < 1 or self.bits % self.bits_at_once:
            raise ValueError(f"bits must be a multiple of bits_at_once = {self.bits_at_once}, got {self.bits}")
