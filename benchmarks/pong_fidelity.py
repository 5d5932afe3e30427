"""How true Learned-Pong is to the real game: the acceptance test as a table and as JSON.

    python benchmarks/pong_fidelity.py                        # the shipped model; 51,200 steps of each of four players
    python benchmarks/pong_fidelity.py --checkpoint FOLDER    # another one

Single steps and open loops on held-out play, then four players in 16 dreams and in reality. Results go to
benchmarks/results/pong_fidelity.json. Run it with OMP_NUM_THREADS=1.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from dyna_learning import RESULTS, processor

from mbrl_gym import load_model
from mbrl_gym.zoo import FOLDER
from mbrl_gym.zoo.build import versions
from mbrl_gym.zoo.pong import collect
from mbrl_gym.zoo.pong_fidelity import acceptance, fidelity


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=FOLDER / "Learned-Pong")
    parser.add_argument("--steps", type=int, default=3200, help="of each player in each of 16 dreams")
    parser.add_argument("--out", type=Path, default=RESULTS / "pong_fidelity.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started = time.process_time()
    stored = load_model(arguments.checkpoint, "cpu")
    found = fidelity(stored.model, stored.starts, collect(10_000, seed=1), steps=arguments.steps)  # type: ignore[arg-type]
    rows = acceptance(found)
    for row in rows:
        print(f"{row.what:<48} {row.value:<32} {row.bar:<28} {'ok' if row.ok else 'short'}")
    result = {
        "command": f"python benchmarks/pong_fidelity.py --steps {arguments.steps}",
        "versions": versions(),
        "processor": processor(),
        "cpu_seconds": round(time.process_time() - started, 1),
        "updates": stored.card.get("updates"),
        "short": [row.what for row in rows if not row.ok],
        **found,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
