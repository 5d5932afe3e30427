"""How an RSSM reads and predicts observations: vectors, images, and dictionaries of both."""

from collections import OrderedDict
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from mbrl_gym.math import symexp, symlog
from mbrl_gym.models.rssm_config import RSSMConfig
from mbrl_gym.nets.images import PooledDecoder, PooledEncoder, StridedDecoder, StridedEncoder
from mbrl_gym.nets.mlp import MLP
from mbrl_gym.spaces import Observation, ObservationCodec, is_image

CHANNELS, SMALLEST = (1, 3, 4), 16  # what is surely an image, whatever its type: its channels and its least side
LARGEST = 1e6  # numbers beyond it are read as it, where they are not squashed: networks would make infinities of them


class Senses:
    """An observation space as what is a vector and what is an image.

    Attributes:
        codec: of the vectors, or None.
        keys: the names of the images, "" for one that is the whole observation.
        first: whether an image's channels are its first axis, one by one.
        channels: of the images.
        shape: (H, W, C) of the images on top of each other, or None.

    Raises:
        ValueError: images differ in size or are not uint8, or a space is neither.
    """

    def __init__(self, space: spaces.Space[Any], config: RSSMConfig) -> None:
        self.space, self.config = space, config
        leaves = dict(sorted(space.spaces.items())) if isinstance(space, spaces.Dict) else {"": space}
        for key, leaf in leaves.items():
            _check_pixels(key, leaf)
        images = {key: leaf for key, leaf in leaves.items() if is_image(leaf)}
        vectors = OrderedDict((key, leaf) for key, leaf in leaves.items() if key not in images)
        self.keys = list(images)
        shapes = [tuple(leaf.shape or ()) for leaf in images.values()]
        # As SB3 tells them: channels are the smallest axis, first or last.
        self.first = [shape[0] < shape[2] for shape in shapes]
        sizes = {shape[1:] if first else shape[:2] for shape, first in zip(shapes, self.first, strict=True)}
        if len(sizes) > 1:
            raise ValueError(f"images must all be of one size, got {sorted(sizes)}; resize them")
        self.channels = [shape[0] if first else shape[2] for shape, first in zip(shapes, self.first, strict=True)]
        self.shape: tuple[int, int, int] | None = None
        if images:
            height, width = next(iter(sizes))
            self.shape = (height, width, sum(self.channels))
        self.codec = None
        if vectors:
            self.codec = ObservationCodec(spaces.Dict(vectors) if isinstance(space, spaces.Dict) else space)

    def vector(self, obs: Observation) -> Tensor:
        """Return [..., D] what networks see of the vectors."""
        assert self.codec is not None
        vector = self.codec.encode(obs)
        return symlog(vector) if self.config.symlog else vector.clamp(-LARGEST, LARGEST)

    def image(self, obs: Observation) -> Tensor:
        """Return [N, C, H, W] float32 between 0 and 1, all leading axes in one."""
        images = [obs[key].flatten(0, -4) for key in self.keys] if isinstance(obs, dict) else [obs.flatten(0, -4)]
        parts = [x if first else x.permute(0, 3, 1, 2) for x, first in zip(images, self.first, strict=True)]
        pixels = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        bits = self.config.image_bits
        return pixels.float() / 255 if bits == 8 else torch.bitwise_right_shift(pixels, 8 - bits).float() / 2**bits

    def assemble(self, vector: Tensor | None, image: Tensor | None) -> Observation:
        """Return raw observations [B, ...] of the space from predicted numbers.

        Args:
            vector: [B, D] as networks see it.
            image: [B, C, H, W] between 0 and 1.
        """
        found: dict[str, Tensor] = {}
        if vector is not None and self.codec is not None:
            plain = symexp(vector) if self.config.symlog else vector
            decoded = self.codec.decode(self.codec.project(torch.nan_to_num(plain)))
            found.update(decoded if isinstance(decoded, dict) else {"": decoded})
        if image is not None:
            pixels = torch.nan_to_num(image).mul(255).round().clamp(0, 255).to(torch.uint8)
            parts = torch.split(pixels, self.channels, dim=1)
            for key, x, first in zip(self.keys, parts, self.first, strict=True):
                found[key] = x if first else x.permute(0, 2, 3, 1)
        if isinstance(self.space, spaces.Dict):
            return {key: found[key] for key in self.space.spaces}
        return found[""]


def _check_pixels(key: str, leaf: spaces.Space[Any]) -> None:
    """Raise where a space has an image's shape and not its type: it would be read as one long vector."""
    if not isinstance(leaf, spaces.Box) or is_image(leaf) or len(leaf.shape) != 3:
        return
    first, middle, last = leaf.shape
    if (last in CHANNELS and min(first, middle) >= SMALLEST) or (first in CHANNELS and min(middle, last) >= SMALLEST):
        where = f"observation_space[{key!r}]" if key else "observation_space"
        raise ValueError(
            f"{where} must be uint8 (0 to 255) to be read as an image, got {leaf.dtype} of shape {leaf.shape}; turn "
            "the pixels into uint8, or flatten the space (gymnasium.wrappers.FlattenObservation) where it is no image"
        )


class ObservationEncoder(nn.Module):
    """Observations to tokens [..., E].

    Args:
        senses: what there is to see.
        config: hyperparameters.
    """

    def __init__(self, senses: Senses, config: RSSMConfig) -> None:
        super().__init__()
        self.senses = senses
        self.size = 0
        self.mlp: MLP | None = None
        self.convolutions: PooledEncoder | StridedEncoder | None = None
        if senses.codec is not None:
            size = senses.codec.size
            self.mlp = MLP(size, config.units, config.layers, activation=config.activation, norm=config.norm)
            self.size += config.units
        if senses.shape is not None:
            if config.convolutions == "pooled":
                self.convolutions = PooledEncoder(senses.shape, config.depth, config.image_activation, config.norm)
            else:
                self.convolutions = StridedEncoder(senses.shape, config.depth, config.image_activation)
            self.size += self.convolutions.size

    def forward(self, obs: Observation, lead: tuple[int, ...]) -> Tensor:
        """Return [*lead, E] of raw observations [*lead, ...]."""
        parts = []
        if self.mlp is not None:
            parts.append(self.mlp(self.senses.vector(obs)))
        if self.convolutions is not None:
            parts.append(self.convolutions(self.senses.image(obs) - 0.5).unflatten(0, lead))
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


class ObservationDecoder(nn.Module):
    """Beliefs to observations.

    Args:
        senses: what there is to see.
        config: hyperparameters.
        stoch: S.
    """

    def __init__(self, senses: Senses, config: RSSMConfig, stoch: int) -> None:
        super().__init__()
        self.senses, self.deter = senses, config.deter
        self.mlp: MLP | None = None
        self.convolutions: PooledDecoder | StridedDecoder | None = None
        features = config.deter + stoch
        if senses.codec is not None:
            like = {"activation": config.activation, "norm": config.norm, "exact": True}
            self.mlp = MLP(features, config.units, config.layers, senses.codec.size, **like)  # type: ignore[arg-type]
        if senses.shape is None:
            return
        if config.convolutions == "pooled":
            self.convolutions = PooledDecoder(
                senses.shape, config.depth, config.deter, stoch, config.units, config.image_activation, config.norm,
                config.blocks,
            )  # fmt: skip
        else:
            self.convolutions = StridedDecoder(senses.shape, config.depth, features, config.image_activation)

    def forward(self, features: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return what is predicted in states [..., F]: vectors [..., D] and images [N, C, H, W], or None."""
        vector = None if self.mlp is None else self.mlp(features)
        image = None
        if self.convolutions is not None:
            flat = features.flatten(0, -2)
            deter, stoch = flat[:, : self.deter], flat[:, self.deter :]
            image = self.convolutions(deter, stoch)
        return vector, image

    def loss(self, features: Tensor, obs: Observation) -> Tensor:
        """Return [], the squared error summed over all numbers and pixels, averaged over states [..., F]."""
        vector, image = self(features)
        total = features.new_zeros(())
        if vector is not None:
            total = total + (vector.float() - self.senses.vector(obs)).square().sum(-1).mean()
        if image is not None:
            total = total + mse_loss(image.float(), self.senses.image(obs), reduction="sum") / len(image)  # in one pass
        return total

    def decode(self, features: Tensor) -> Observation:
        """Return raw observations of states [B, F]."""
        vector, image = self(features)
        return self.senses.assemble(
            None if vector is None else vector.float(), None if image is None else image.float()
        )
