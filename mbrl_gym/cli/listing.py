"""`mbrl-gym list`."""

import sys
from pathlib import Path

from mbrl_gym import zoo
from mbrl_gym.checkpoint import CheckpointError, load_checkpoint
from mbrl_gym.cli.text import table
from mbrl_gym.envs.registry import available_models, home


def run_list() -> int:
    """Print the learned environments that gym.make knows without a checkpoint."""
    models = available_models()
    if not models:
        print(
            f"No model is shipped with this installation, and none is published under {home()}.\n"
            "Make one:  mbrl-gym train dyna --env Pendulum-v1 --steps 3000 --out runs/p --publish Learned-MyPendulum-v0"
        )
        return 0
    rows = [_row(env_id, folder) for env_id, folder in sorted(models.items())]
    print(table(("id", "real environment", "real steps", "horizon", "size", "where"), rows, right={2, 3, 4}))
    print('\nUse one:  gymnasium.make("ID") after `import mbrl_gym`, or gymnasium.make_vec("ID", num_envs=1024)')
    return 0


def _row(env_id: str, folder: Path) -> tuple[str, ...]:
    where = "shipped" if zoo.shipped_models().get(env_id) == folder else str(folder)
    size = _size(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()))
    try:
        config = load_checkpoint(folder, kind="model", groups=()).config
    except (CheckpointError, OSError) as error:
        print(f"mbrl-gym: warning: {env_id} cannot be read: {error}", file=sys.stderr)
        return env_id, "unreadable", "-", "-", size, where
    steps = config.get("card", {}).get("real_steps")
    return (
        env_id,
        str(config.get("real_id") or "-"),
        f"{steps:,}" if isinstance(steps, int) else "-",
        f"{config.get('horizon', '-'):,}",
        size,
        where,
    )


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if count >= 10 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
