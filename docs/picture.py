"""Draw docs/pong.webp, the picture of README: ``python docs/picture.py``. Reality beside dream, the same actions."""

from pathlib import Path
from typing import Any

from mbrl_gym import LearnedEnv
from mbrl_gym.report.animation import animate_dream
from mbrl_gym.store import load_model
from mbrl_gym.zoo import FOLDER
from mbrl_gym.zoo.pong import follow, make_real

TARGET = Path(__file__).resolve().parent / "pong.webp"


def player(obs: Any, *_: Any) -> tuple[Any, None]:
    """Follow the ball of reality."""
    return follow(obs.reshape(1, 210, 160))[0], None


def main() -> None:
    """Write the animation: 160 steps, the dream on its own for 80 at most."""
    stored = load_model(FOLDER / "Learned-Pong")
    dream = LearnedEnv(stored.model, stored.starts)
    animate_dream(TARGET, player, make_real(), dream, fps=15, steps=160, resync=80, seed=1, size=240)


if __name__ == "__main__":
    main()
