"""A latent of bits, -1 or 1: made from features, and predicted some at a time by a recurrent network.

Shapes: B batch, N features, K bits, L words of k bits each, so that K = L k.

Source: tensorflow/tensor2tensor at bafdc1b, ``layers/discretization.py`` (tanh_discrete_bottleneck,
predict_bits_with_lstm).
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout


class Bottleneck(nn.Module):
    """Makes bits of features, through which the gradient goes as if they were tanh.

    Args:
        inputs: N.
        bits: K.
        noise: deviation of what is added before.
        flips: share of the bits that are turned around.
    """

    def __init__(self, inputs: int, bits: int, noise: float, flips: float) -> None:
        super().__init__()
        self.project = nn.Linear(inputs, bits)
        self.noise, self.flips = noise, flips

    def forward(self, features: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """Return the latent [B, K] as training uses it, of which ``share`` [] are bits, and the true bits [B, K]."""
        x = self.project(features).float()
        noise = nn.init.trunc_normal_(torch.empty_like(x))  # within two deviations
        soft = torch.tanh(x + self.noise * noise)
        hard = soft + (as_bits(soft) - soft).detach()
        hard = torch.where(torch.rand_like(x) < self.flips, -hard, hard)
        return torch.where(torch.rand_like(x) < share, hard, soft), as_bits(x)


class BitPredictor(nn.Module):
    """Predicts bits from features, a word of them after the other, each knowing those before.

    Args:
        inputs: N.
        bits: K.
        at_once: k.
        size: of the recurrent state.
        dropout: of its inputs and outputs in training.
    """

    powers: Tensor  # [k]

    def __init__(self, inputs: int, bits: int, at_once: int, size: int, dropout: float) -> None:
        super().__init__()
        self.words, self.at_once, self.dropout = bits // at_once, at_once, dropout
        self.begin = nn.Linear(inputs, 3 * size)  # first input, output and memory
        self.cell = nn.LSTM(size, size, batch_first=True)
        self.embed = nn.Embedding(2**at_once, size)
        self.classify = nn.Linear(size, 2**at_once)
        self.register_buffer("powers", 2 ** torch.arange(at_once), persistent=False)
        for bias in (self.cell.bias_ih_l0, self.cell.bias_hh_l0):
            assert isinstance(bias, Tensor)
            nn.init.zeros_(bias)
            nn.init.constant_(bias[size : 2 * size], 0.5)  # their sum: it begins by remembering, as TensorFlow's does

    def loss(self, features: Tensor, bits: Tensor) -> Tensor:
        """Return [B], the mean cross-entropy of the words of ``bits`` [B, K], in nats, given ``features`` [B, N]."""
        words = self._words(bits)
        first, state = self._beginning(features)
        known = dropout(self.embed(words[:, :-1]), self.dropout)
        outputs, _ = self.cell(torch.cat([first, known], 1), state)
        logits = self.classify(dropout(outputs, self.dropout)).float()
        return cross_entropy(logits.transpose(1, 2), words, reduction="none").mean(1)

    def forward(
        self, features: Tensor, temperature: float, generator: torch.Generator | None = None, sample: bool = True
    ) -> Tensor:
        """Return bits [B, K]: drawn, or each word the likeliest after those before.

        Args:
            features: [B, N].
            temperature: by which logits are divided.
            generator: source of randomness.
            sample: whether bits are drawn.
        """
        given, state = self._beginning(features)
        found = []
        for _ in range(self.words):
            output, state = self.cell(given, state)
            logits = self.classify(output[:, 0]).float().nan_to_num()
            chances = (logits / temperature).softmax(-1)
            word = torch.multinomial(chances, 1, generator=generator) if sample else logits.argmax(-1, keepdim=True)
            found.append(word)
            given = self.embed(word)
        return self._bits(torch.cat(found, 1))

    def _beginning(self, features: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the first input [B, 1, size], and output and memory [1, B, size]."""
        first, output, memory = self.begin(features).chunk(3, -1)
        return first[:, None], (output[None].contiguous(), memory[None].contiguous())

    def _words(self, bits: Tensor) -> Tensor:
        """Return the numbers [B, L] of bits [B, K]."""
        words = bits.view(len(bits), self.words, self.at_once)
        return ((words > 0) * self.powers).sum(-1)

    def _bits(self, words: Tensor) -> Tensor:
        """Return the bits [B, K] of numbers [B, L]."""
        return as_bits((words[..., None] & self.powers).flatten(1))


def as_bits(x: Tensor) -> Tensor:
    """Return float32 1 where ``x`` is above zero, and -1 elsewhere."""
    return (x > 0).float() * 2.0 - 1.0
