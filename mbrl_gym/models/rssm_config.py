"""RSSMConfig: the hyperparameters of `RSSM`; PlaNet, DreamerV1, V2 and V3 are configurations of it."""

from dataclasses import dataclass, replace
from typing import Any

from mbrl_gym.models.latents import CategoricalLatent, GaussianLatent, Latent
from mbrl_gym.nets.blocks import ACTIVATIONS
from mbrl_gym.nets.recurrent import BlockGRUCell, Cell, GRUCell, LayerNormGRUCell

# deter, hidden, classes, units. Source: danijar/dreamerv3 at e3f0224, dreamerv3/configs.yaml
SIZES: dict[str, tuple[int, int, int, int]] = {
    "1m": (512, 64, 4, 64),
    "12m": (2048, 256, 16, 256),
    "25m": (3072, 384, 24, 384),
    "50m": (4096, 512, 32, 512),
    "100m": (6144, 768, 48, 768),
    "200m": (8192, 1024, 64, 1024),
    "400m": (12288, 1536, 96, 1536),
}
# The published weights of the Gaussian latent are for pictures, whose thousands of pixels outweigh its divergence.
# Three numbers of order 1, read with a deviation of 1, do not: on 1,500 random steps of Pendulum, 800 updates of V1
# left an open-loop error of 0.59 deviations after 15 steps, with these weights 0.23.
FEW_NUMBERS: dict[str, Any] = {
    "reward_scale": 1.0,
    "free_nats": 0.0,
    "dynamics_scale": 0.01,
    "representation_scale": 0.01,
}
CELLS = ("gru", "layer_norm_gru", "block_gru")
LATENTS = ("gaussian", "categorical")


@dataclass(frozen=True)
class RSSMConfig:
    """Hyperparameters of `RSSM`; the defaults are DreamerV3's of size "1m".

    Attributes:
        deter: D, size of the deterministic state.
        hidden: units of the layers between the states.
        cell: "gru" (PlaNet, V1), "layer_norm_gru" (V2) or "block_gru" (V3).
        blocks: of the block GRU.
        latent: "gaussian" or "categorical".
        stoch: numbers of a Gaussian latent, groups of a categorical one.
        classes: of each group.
        unimix: share of the uniform distribution in each group.
        least_deviation: of a Gaussian latent.
        prior_layers: hidden layers from the deterministic state to the prior.
        posterior_layers: hidden layers from it and the observation to the posterior.
        units: of the encoder, the decoder and the heads.
        layers: hidden layers of encoder and decoder.
        head_layers: hidden layers of the heads of reward and continuation.
        depth: by which the channels of convolutions are multiplied.
        convolutions: "pooled" (V3: images of any size that can be halved to 3 to 16) or "strided" (V1, V2: 64x64).
        image_bits: of a pixel that are seen and predicted (PlaNet: 5, here without noise in place of the others).
        image_activation: of convolutions: "silu", "elu" or "relu".
        activation: of everything else.
        norm: whether hidden layers are normed.
        symlog: whether observations are squashed before they are read and predicted.
        reward: "two_hot" (bins) or "normal" (squared error).
        observation_scale: weight of the reconstruction's loss.
        reward_scale: weight of the reward's loss.
        continuation_scale: weight of the continuation's loss.
        dynamics_scale: weight of the divergence that moves the prior towards the posterior.
        representation_scale: weight of the one that moves the posterior towards the prior.
        free_nats: divergences below this do not count.
        free_average: whether that holds for the batch's mean (V1, V2) or for each state (V3).
        discount_horizon: the continuation is learned times 1 - 1 / this (V3's "contdisc"), and divided by it again
            where the model is asked for an end; None: as it is.
        overshooting: up to how many steps ahead the prior is compared with the posterior (PlaNet's option); below 2
            only the next step.
        context: real steps that form a belief.

    Raises:
        ValueError: a value is out of its range.
    """

    deter: int = 512
    hidden: int = 64
    cell: str = "block_gru"
    blocks: int = 8
    latent: str = "categorical"
    stoch: int = 32
    classes: int = 4
    unimix: float = 0.01
    least_deviation: float = 0.1
    prior_layers: int = 2
    posterior_layers: int = 1
    units: int = 64
    layers: int = 3
    head_layers: int = 1
    depth: int = 4
    convolutions: str = "pooled"
    image_bits: int = 8
    image_activation: str = "silu"
    activation: str = "silu"
    norm: bool = True
    symlog: bool = True
    reward: str = "two_hot"
    observation_scale: float = 1.0
    reward_scale: float = 1.0
    continuation_scale: float = 1.0
    dynamics_scale: float = 1.0
    representation_scale: float = 0.1
    free_nats: float = 1.0
    free_average: bool = False
    discount_horizon: float | None = 333.0
    overshooting: int = 0
    context: int = 1

    def __post_init__(self) -> None:
        for name in (
            "deter", "hidden", "blocks", "stoch", "classes", "prior_layers", "posterior_layers", "units", "layers",
            "head_layers", "depth", "image_bits", "context",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name, known in (
            ("cell", CELLS),
            ("latent", LATENTS),
            ("activation", tuple(ACTIVATIONS)),
            ("image_activation", tuple(ACTIVATIONS)),
            ("reward", ("two_hot", "normal")),
            ("convolutions", ("pooled", "strided")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        for name in (
            "observation_scale", "reward_scale", "continuation_scale", "dynamics_scale", "representation_scale",
            "free_nats", "overshooting",
        ):  # fmt: skip
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 0 <= self.unimix < 1:
            raise ValueError(f"unimix must be at least 0 and below 1, got {self.unimix}")
        if not self.least_deviation > 0:
            raise ValueError(f"least_deviation must be positive, got {self.least_deviation}")
        if self.image_bits > 8:
            raise ValueError(f"image_bits must be at most the 8 of a pixel, got {self.image_bits}")
        if self.cell == "block_gru" and self.deter % self.blocks:
            raise ValueError(f"deter must be a multiple of the {self.blocks} blocks, got {self.deter}")
        if self.discount_horizon is not None and not self.discount_horizon > 1:
            raise ValueError(f"discount_horizon must be above 1 step, or None, got {self.discount_horizon}")

    @classmethod
    def dreamer_v3(cls, size: str = "1m") -> "RSSMConfig":
        """Return DreamerV3's configuration of a size, "1m" to "400m".

        Raises:
            ValueError: there is no such size.
        """
        if size not in SIZES:
            raise ValueError(f"size must be one of {', '.join(SIZES)}, got {size!r}")
        deter, hidden, classes, units = SIZES[size]
        return cls(deter=deter, hidden=hidden, classes=classes, units=units, depth=classes)  # as many as classes

    @classmethod
    def dreamer_v2(cls) -> "RSSMConfig":
        """Return DreamerV2's configuration for control from vectors: KL balancing, one free nat on average.

        Observations are Gaussians of deviation 1, whose likelihood is half the squared error. Source: danijar/dreamerv2
        ``configs.yaml`` (dmc) at 0216d33, where the continuation is off; here it is learned.
        """
        return replace(
            cls.dreamer_v1(),
            cell="layer_norm_gru",
            latent="categorical",
            stoch=32,
            classes=32,
            unimix=0.0,
            layers=4,
            head_layers=4,
            depth=48,
            image_activation="elu",
            continuation_scale=1.0,
            dynamics_scale=0.8,
            representation_scale=0.2,
            free_nats=1.0,
        )

    @classmethod
    def dreamer_v1(cls) -> "RSSMConfig":
        """Return DreamerV1's configuration: Gaussian latents, three free nats on average, no balancing.

        Source: danijar/dreamer ``dreamer.py``, where the continuation is an option (of this scale, with a layer more);
        here it is learned.
        """
        return cls(
            deter=200,
            hidden=200,
            cell="gru",
            latent="gaussian",
            stoch=30,
            prior_layers=1,
            units=400,
            layers=2,
            head_layers=2,
            depth=32,
            convolutions="strided",
            image_activation="relu",
            activation="elu",
            norm=False,
            symlog=False,
            reward="normal",
            observation_scale=0.5,
            continuation_scale=10.0,
            representation_scale=1.0,
            free_nats=3.0,
            free_average=True,
            discount_horizon=None,
        )

    @classmethod
    def planet(cls) -> "RSSMConfig":
        """Return PlaNet's configuration: a Gaussian latent, three free nats in each state, rewards weighted by 10.

        Source: google-research/planet ``scripts/configs.py``, which learns from images and no ends of episodes; here
        the observations are vectors of deviation 1, and the continuation is learned.
        """
        return replace(
            cls.dreamer_v1(),
            units=200,
            image_bits=5,
            activation="relu",
            reward_scale=10.0,
            continuation_scale=1.0,
            free_average=False,
        )

    def make_latent(self) -> Latent:  # type: ignore[type-arg]
        """Return the kind of stochastic state."""
        if self.latent == "gaussian":
            return GaussianLatent(self.stoch, self.least_deviation)
        return CategoricalLatent(self.stoch, self.classes, self.unimix)

    def make_cell(self, stoch: int, action: int) -> Cell:
        """Return the recurrent cell for S flat stochastic numbers and A encoded ones of the action."""
        if self.cell == "gru":
            return GRUCell(stoch, action, self.deter, self.hidden, self.activation)
        if self.cell == "layer_norm_gru":
            return LayerNormGRUCell(stoch, action, self.deter, self.hidden)
        return BlockGRUCell(stoch, action, self.deter, self.hidden, self.blocks)
