"""The models that are shipped in the package, a folder and a card each; ``python -m mbrl_gym.zoo.build`` makes them."""

from pathlib import Path

from mbrl_gym.checkpoint import is_checkpoint

FOLDER = Path(__file__).resolve().parent


def shipped_models() -> dict[str, Path]:
    """Return the checkpoint folder of every shipped model, by id."""
    return models_in(FOLDER)


def models_in(folder: Path) -> dict[str, Path]:
    """Return the checkpoints of learned environments in ``folder``, by id; whatever else lies there is left out."""
    found = [path.parent for pattern in ("Learned-*/CURRENT", "Learned-*/*/CURRENT") for path in folder.glob(pattern)]
    return {path.relative_to(folder).as_posix(): path for path in sorted(found) if is_checkpoint(path)}


def atari_games() -> list[str]:
    """Return the names of ALE's games, as in "Pong" (a list of our own, so that ale-py need not be imported)."""
    return (FOLDER / "atari_games.txt").read_text().split()


def atari_ids() -> list[str]:
    """Return the ids of ALE's games, as in "ALE/Pong-v5"."""
    return [f"ALE/{game}-v5" for game in atari_games()]
