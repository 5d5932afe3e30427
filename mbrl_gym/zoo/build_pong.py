"""Make Learned-Pong from scratch: ``python -m mbrl_gym.zoo.build_pong --work runs/pong [--minutes 30]``.

It plays the real game, trains a `VideoModel` on the recording, and writes the model with its start states, card and
notice into this folder. Stopped, or after ``--minutes``, it goes on where it was when called again; but what moves is
learned first and at once, in half an hour, and stopped in it that begins again.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mbrl_gym.store import StoredModel, save_model
from mbrl_gym.zoo import FOLDER
from mbrl_gym.zoo.build import versions
from mbrl_gym.zoo.pong import ID, KEYS, collect
from mbrl_gym.zoo.pong_fidelity import acceptance, fidelity
from mbrl_gym.zoo.pong_training import Recipe, Training

NAME, HORIZON = "Learned-Pong", 27_000  # 108,000 frames, ALE's limit
KEPT_AS = torch.float16  # halves the file
STARTS = 24  # games: 33 KB each
VIEW = {"stack": 4, "height": 84, "width": 84}
NOTICE = """The start states in this folder (starts.npz) are pictures of the game Pong by Atari, as the Arcade Learning
Environment draws them. mbrl_gym claims no rights in them and licenses none. The weights were learned from such
pictures.
"""


def train(training: Training, seconds: float) -> bool:
    """Train with a progress bar for at most ``seconds``; return whether the fit is complete."""
    with tqdm(total=training.total, initial=training.done, unit="update") as bar:

        def show(done: int, terms: dict[str, Tensor]) -> None:
            bar.update()
            if done % 20 == 0:
                bar.set_postfix({name: f"{float(value):.3g}" for name, value in terms.items()})

        return training.run(seconds, show)


def stored(training: Training) -> StoredModel:
    """Return the trained model as it will be read, with the beginnings of some recorded games, without a card."""
    model = training.model.eval().requires_grad_(False)
    for number in (x for x in model.state_dict().values() if x.is_floating_point()):
        number.copy_(number.to(KEPT_AS))
    rng = np.random.default_rng(training.recipe.seed)
    starts = training.replay.starts(model.context, kind="resets", most=STARTS, rng=rng)
    return StoredModel(model, starts, ID, HORIZON, {}, VIEW)


def build(training: Training, root: Path = FOLDER, steps: int = 3200, samples: int = 2000) -> dict[str, Any]:
    """Measure the trained model against reality, write it into ``root``, and return its card.

    Args:
        training: complete.
        root: the folder of the shipped models.
        steps: of each policy in each of 16 dreams.
        samples: single steps that are compared.
    """
    plain = stored(training)
    held_out = collect(10_000, training.recipe.seed + 1)
    measured = fidelity(plain.model, plain.starts, held_out, steps=steps, samples=samples)  # type: ignore[arg-type]
    recipe = training.recipe
    real_steps = recipe.real_steps + recipe.moves_steps
    card = {
        "made_by": "python -m mbrl_gym.zoo.build_pong --work runs/pong",
        "data": f"{real_steps} steps of {ID} (frame skip 4, no sticky actions) by a scripted player",
        "seeds": [recipe.seed],
        "real_steps": real_steps,
        "updates": training.done,
        "planned_updates": training.total,
        "keys": KEYS,
        "versions": versions(),
        "fidelity": measured,
    }
    save_model(root / NAME, StoredModel(plain.model, plain.starts, ID, HORIZON, card, VIEW), KEPT_AS)
    (root / NAME / "CARD.md").write_text(card_text(card))
    (root / NAME / "NOTICE").write_text(NOTICE)
    return card


def card_text(card: dict[str, Any]) -> str:
    """Return the card as Markdown."""
    lines = [
        f"# {NAME}",
        "",
        f"The screen of {ID}, learned from {card['data']};",
        f"{card['updates']} of {card['planned_updates']} updates, seed {card['seeds'][0]}.",
        f"Made by `{card['made_by']}`; mbrl_gym {card['versions']['mbrl_gym']}, torch {card['versions']['torch']}.",
        "",
        "Games begin as the recorded ones did, and end when one side has 21 points. Keys: "
        + ", ".join(f"{key} for {action}" for key, action in card["keys"].items())
        + ". No ROM is needed. See NOTICE on the start states.",
        "",
        "| against reality | measured | bar | |",
        "| --- | --- | --- | --- |",
        *(f"| {row.what} | {row.value} | {row.bar} | {'ok' if row.ok else 'short'} |" for row in _rows(card)),
    ]
    return "\n".join([*lines, ""])


def _rows(card: dict[str, Any]) -> list[Any]:
    return acceptance(card["fidelity"])


def main() -> None:
    """Train on, and build once the training is complete."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder that the training is kept in")
    parser.add_argument("--minutes", type=float, default=1e9, help="of the clock, then stop; call again to go on")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    training = Training(arguments.work, Recipe())
    if train(training, 60 * arguments.minutes):
        print(card_text(build(training)))
    else:
        print(f"{training.done} of {training.total} updates are done; call again to go on.")


if __name__ == "__main__":
    main()
