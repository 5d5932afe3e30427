"""Window: pictures on the screen as they come, through pygame."""

from typing import Any

import numpy as np

LEAST_HEIGHT = 420  # pixels; smaller pictures are enlarged by a whole number
CODES = {"up": 1073741906, "down": 1073741905, "left": 1073741904, "right": 1073741903}  # pygame.K_UP and so on


class Window:
    """A window that shows one picture after another, at most ``fps`` a second.

    Args:
        title: of the window.
        fps: pictures a second.

    Raises:
        ImportError: pygame is not installed.
    """

    def __init__(self, title: str, fps: int) -> None:
        try:
            import pygame
        except ImportError as error:
            raise ImportError(
                'render_mode="human" needs pygame: pip install "mbrl-gym[viz]", or take "rgb_array"'
            ) from error
        self._pygame: Any = pygame
        self._title, self._fps = title, fps
        self._screen: Any = None
        self._clock = pygame.time.Clock()

    def show(self, picture: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        """Show a picture [height, width, 3], and wait until it is due."""
        pygame = self._pygame
        times = max(1, -(-LEAST_HEIGHT // picture.shape[0]))
        size = picture.shape[1] * times, picture.shape[0] * times
        if self._screen is None:
            pygame.display.init()
            pygame.display.set_caption(self._title)
            self._screen = pygame.display.set_mode(size)
        surface = pygame.surfarray.make_surface(picture.swapaxes(0, 1))
        self._screen.blit(pygame.transform.scale(surface, size), (0, 0))
        pygame.event.pump()
        pygame.display.flip()
        self._clock.tick(self._fps)

    def close(self) -> None:
        """Close the window."""
        if self._screen is not None:
            self._pygame.display.quit()
            self._screen = None


def keys_to_action(keys: dict[str, int]) -> dict[tuple[int, ...], int]:
    """Return ``keys`` as `gymnasium.utils.play.play` wants them; names are characters, or those of arrows."""
    return {(CODES[name] if name in CODES else ord(name),): action for name, action in keys.items()}
