"""VideoConfig: the hyperparameters of `VideoModel`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class VideoConfig:
    """Hyperparameters of `VideoModel`; the defaults are those of `tiny`.

    Attributes:
        colours: K, the most colours that pictures are made of (`mbrl_gym.models.palette.Palette`).
        patch: height and width of the cells that pictures are read and drawn by. With a frame skip of 4 what moves by
            whole pixels a frame moves by multiples of 4: in the next cell of 4 pixels it looks the same.
        channels: of the cells, and of each level below, where height and width are halved.
        things: the most things of a picture that are moved (`mbrl_gym.nets.things`), the largest.
        parts: the most cells of a picture that things are looked for in, those that differ most from the background.
        largest: height and width in pixels of the largest thing; what is larger is not moved but drawn anew.
        reach: the most pixels that an edge of a thing moves by in a step.
        hidden: units that say where things go.
        blocks: residual blocks at the lowest level behind the latent.
        embedding: numbers that the action and the latent are given as to every block.
        frames: pictures that the next one is predicted from.
        context: real steps that a belief is formed from: how long parts of the picture have stood still is known no
            further back (at least ``frames``).
        codes: classes of the latent, one choice for the whole picture.
        rewards: the most different rewards there may be.
        learn_termination: whether the end of an episode is predicted; else dreams never end by themselves (SimPLe).
        self_fed: share of the windows in training whose pictures are the model's own, step after step.
        prior_share: share of the steps in these whose own picture is drawn with a latent from the prior.
        clip: cross-entropy of a pixel, in nats, below which it is right enough and has no gradient.
        rare_weight: the most that a pixel counts for. It counts for one over the root of how often its place has its
            colour, so that what is seldom somewhere is learned although the background is everywhere.
        free_nats: divergence of the latent that costs nothing.

    Raises:
        ValueError: a value is out of its range.
    """

    colours: int = 8
    patch: tuple[int, int] = (4, 4)
    channels: tuple[int, ...] = (40, 64, 96, 128)
    things: int = 16
    parts: int = 128
    largest: tuple[int, int] = (32, 32)
    reach: int = 32
    hidden: int = 192
    blocks: int = 2
    embedding: int = 128
    frames: int = 4
    context: int = 24
    codes: int = 32
    rewards: int = 3
    learn_termination: bool = False
    self_fed: float = 0.5
    prior_share: float = 0.1
    clip: float = 0.01
    rare_weight: float = 30.0
    free_nats: float = 0.0

    def __post_init__(self) -> None:
        for name in ("patch", "channels", "largest"):  # JSON brings lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.patch) != 2 or min(self.patch) < 1:
            raise ValueError(f"patch must be a height and a width of at least 1, got {self.patch}")
        if len(self.channels) < 2 or min(self.channels) < 1:
            raise ValueError(f"channels must be those of at least two levels, got {self.channels}")
        if len(self.largest) != 2 or min(self.largest) < 1:
            raise ValueError(f"largest must be a height and a width of at least 1, got {self.largest}")
        for name in ("things", "parts", "reach", "hidden", "blocks", "embedding", "frames", "codes", "rewards"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.context < self.frames:
            raise ValueError(f"context must be at least the {self.frames} frames, got {self.context}")
        for name in ("self_fed", "prior_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        for name in ("clip", "free_nats"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 1 <= self.rare_weight <= 255:
            raise ValueError(f"rare_weight must be between 1 and 255, got {self.rare_weight}")

    @classmethod
    def tiny(cls) -> "VideoConfig":
        """Return what a CPU trains: the defaults."""
        return cls()

    @classmethod
    def base(cls) -> "VideoConfig":
        """Return what wants a GPU: wider, deeper, more colours and codes. It has not been trained yet."""
        return cls(colours=16, channels=(64, 128, 192, 256), blocks=6, embedding=256, codes=64)
