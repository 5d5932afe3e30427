"""What grows with the updates that a model has had, from a hundredth to 1.

Source: tensorflow/tensor2tensor at bafdc1b, ``layers/common_layers.py`` (inverse_lin_decay, inverse_exp_decay).
"""

from torch import Tensor

BEGINNING = 0.01


def linear_rise(updates: Tensor, steps: int) -> Tensor:
    """Return [], a straight line from a hundredth to the 1 that is reached after ``steps`` updates [] and kept."""
    progress = (updates / steps).clamp(max=1.0)
    return BEGINNING + (1.0 - BEGINNING) * progress


def exponential_rise(updates: Tensor, steps: int) -> Tensor:
    """Return [], a hundredth that grows by an equal factor with each update to the 1 of ``steps`` updates []."""
    left = (1.0 - updates / steps).clamp(min=0.0)
    found: Tensor = BEGINNING**left
    return found
