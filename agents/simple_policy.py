"""SmallCnn: the network of SimPLe's policy."""

from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn


class SmallCnn(BaseFeaturesExtractor):
    """Two convolutions and a dense layer, for SB3's CnnPolicy with ``net_arch=[]``.

    The dropout in the source does nothing there (tf.layers.dropout without ``training``), and is left out.

    Source: tensorflow/tensor2tensor at bafdc1b, ``models/research/rl.py`` (FeedForwardCnnSmallCategoricalPolicy).

    Args:
        observation_space: Box [C, H, W].
        features_dim: units of the dense layer.
    """

    def __init__(self, observation_space: spaces.Box, features_dim: int = 128) -> None:
        super().__init__(observation_space, features_dim)
        channels, height, width = observation_space.shape
        places = -(-height // 4) * -(-width // 4)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 32, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(32, 32, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * places, features_dim),
            nn.ReLU(),
        )

    def forward(self, observations: Tensor) -> Tensor:
        """Return [B, features_dim] of pictures [B, C, H, W] in [0, 1]."""
        found: Tensor = self.layers(observations)
        return found
