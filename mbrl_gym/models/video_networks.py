"""VideoNetworks: everything of a `VideoModel` that is learned by gradients, and what it says of one step.

Shapes: B batch, h x w cells of P pixels, K colours, A encoded action, O things.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from mbrl_gym.distributions import UnimixCategorical
from mbrl_gym.models.video_config import VideoConfig
from mbrl_gym.models.video_state import Cells, VideoState
from mbrl_gym.nets.moves import MoveNetwork, Scene
from mbrl_gym.nets.precision import rounded
from mbrl_gym.nets.things import Grid, Things, draw, find, match
from mbrl_gym.nets.video import TargetEncoder, VideoDecoder, VideoEncoder, head, summarise

WORDS = {4: torch.int32, 8: torch.int64}  # by bytes


@dataclass(frozen=True)
class Step:
    """What the networks say of one step.

    Attributes:
        logits: [K, B, h * w, P] of the pixels.
        reward: [B, rewards] logits.
        termination: [B] logits.
        prior: of the code.
        posterior: of the code, where the next picture was given.
        moves: [B] nats of what became of the things, summed over them, where the next picture was given; 0 where moves
            are not trained.
    """

    logits: Tensor
    reward: Tensor
    termination: Tensor
    prior: UnimixCategorical
    posterior: UnimixCategorical | None
    moves: Tensor | None


class VideoNetworks(nn.Module):
    """Encoder, code, moves of things, and decoder.

    Args:
        config: hyperparameters.
        picture: height and width in pixels.
        actions: A.
    """

    usual: Tensor  # [h * w, P] uint8: the commonest colour of each place
    colours_read: Tensor  # [K, D]

    def __init__(self, config: VideoConfig, picture: tuple[int, int], actions: int) -> None:
        super().__init__()
        self.cut = Cells(picture, config.patch)
        self.cells, self.pixels = self.cut.shape, config.patch[0] * config.patch[1]
        self.grid = Grid(self.cells, config.patch, config.colours, config.parts, config.things, config.largest)
        read = _read(config.colours)
        numbers, channels, size = self.pixels * read.shape[1], config.channels, config.embedding
        self.encoder = VideoEncoder(config.frames * numbers, actions, channels, size)
        self.decoder = VideoDecoder(self.pixels, numbers, config.colours, self.cells, channels, size, config.blocks)
        self.moves = MoveNetwork(
            picture, config.colours, config.frames, config.reach, actions, config.codes, config.hidden
        )
        self.target = TargetEncoder(numbers, channels[0], self.cells)
        summary = 2 * channels[-1] + size
        self.prior = head(summary, config.codes)
        self.posterior = head(summary + 128, config.codes)
        self.code = nn.Linear(config.codes, size, bias=False)
        self.reward_head = head(summary, config.rewards)
        self.termination_head = head(summary, 1)
        self.register_buffer("usual", torch.zeros(self.cells[0] * self.cells[1], self.pixels, dtype=torch.uint8))
        self.register_buffer("colours_read", read, persistent=False)

    def levels(self, state: VideoState, action: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return what the encoder says of beliefs [B] and actions [B, A]."""
        found: tuple[list[Tensor], Tensor] = self.encoder(self._coloured(state.frames), state.still, action)
        return found

    def things(self, pictures: Tensor) -> Things:
        """Return the things [N, O] on pictures [N, h, w, P]."""
        return find(pictures.flatten(1, 2), self.usual, self.grid)

    def scene(self, state: VideoState) -> Scene:
        """Return the things of beliefs [B], and where they were."""
        pictures = state.pictures(self.pixels)
        found = self.things(pictures.flatten(0, 1))
        count = pictures.shape[1]
        return self.moves.scene([found[t::count] for t in reversed(range(count))])

    def step(
        self,
        state: VideoState,
        action: Tensor,
        target: Tensor | None,
        generator: torch.Generator | None,
        sample: bool = True,
        from_prior: Tensor | None = None,
    ) -> Step:
        """Return what the networks say of one step.

        Args:
            state: [B].
            action: [B, A].
            target: the next picture [B, h, w, P], where it is known.
            generator: source of randomness.
            sample: whether the code is drawn.
            from_prior: [B] bool, rows whose code is drawn from the prior although the target is known.
        """
        levels, given = self.levels(state, action)
        summary = summarise(levels[-1], given)
        prior = posterior = self._codes_of(self.prior(summary))
        if target is not None:
            seen = self.target(self._coloured(target), levels[0])
            posterior = self._codes_of(self.posterior(torch.cat([summary, seen], -1)))
        noise = torch.empty_like(prior.probabilities).exponential_(generator=generator) if sample else None
        code = posterior.mode if noise is None else posterior.sample_from(noise)
        if from_prior is not None and noise is not None:
            code = torch.where(from_prior[:, None], prior.sample_from(noise).detach(), code)
        draft, drawn, moves = self._moved(state, action, code, target)
        read = self._coloured(draft)
        logits, ending = self.decoder(levels, given + self.code(code), draft, drawn, read)
        return Step(
            logits,
            self.reward_head(ending).float(),
            self.termination_head(ending)[:, 0].float(),
            prior,
            None if target is None else posterior,
            moves,
        )

    def _moved(
        self, state: VideoState, action: Tensor, code: Tensor, target: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the background with things where they go [B, h, w, P], where these are, and how likely that was.

        Where the next picture is known they go where they are seen on it: what else is drawn can be learned although
        some moves are not, or cannot be, and nothing is learned to make up for wrong ones.
        """
        with torch.autocast(action.device.type, enabled=False):
            scene, moves = self.scene(state), None
            if target is None:
                to = self.moves.choose(scene, action, code.float())
            else:
                after = self.things(target)
                moves = torch.zeros(len(action), device=action.device)
                if self.moves.learns:
                    moves = self.moves.loss(scene, action, code.float(), after)[0].sum(-1)
                to = match(scene.things, after, self.moves.reach)
        usual = self.usual.view(*self.cells, self.pixels)
        newest = self.cut.joined(state.newest(self.pixels))
        things = Things(scene.things.box, scene.things.colour, to.there)
        shown = self.cut.cut(draw(newest, self.cut.joined(usual), things, to.box, self.grid.largest) + 1)
        drawn = shown > 0
        return torch.where(drawn, shown - 1, usual).to(torch.uint8), drawn, moves

    def _coloured(self, numbers: Tensor) -> Tensor:
        """Return [..., n * D] of numbers of colours [..., n]."""
        return looked_up(numbers, rounded(self.colours_read)).flatten(-2)

    @staticmethod
    def _codes_of(logits: Tensor) -> UnimixCategorical:
        return UnimixCategorical(logits.float(), 0.01)


def looked_up(numbers: Tensor, table: Tensor) -> Tensor:
    """Return the rows of ``table`` [K, D] of numbers [...]: [..., D]; rows that fill a machine word move as one."""
    word = WORDS.get(table.shape[1] * table.element_size())
    if word is None:
        return embedding(numbers.int(), table)
    found = table.contiguous().view(word)[:, 0].index_select(0, numbers.flatten().int())
    return found.view(table.dtype).view(*numbers.shape, -1)


def _read(colours: int) -> Tensor:
    """Return [K, D]: what colours are read as: one-hots without the commonest, or the digits of many colours."""
    number = torch.arange(colours)
    if colours <= 9:
        return (number[:, None] == number[1:]).float()
    return (number[:, None] >> torch.arange((colours - 1).bit_length()) & 1).float()
