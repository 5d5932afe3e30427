"""`mbrl-gym play`."""

import importlib.util
import webbrowser
from pathlib import Path
from typing import Any

import torch

from mbrl_gym.checkpoint import CheckpointError, is_checkpoint
from mbrl_gym.cli.commands import Play
from mbrl_gym.cli.errors import UserError, user_errors
from mbrl_gym.cli.run_folder import RunFolder
from mbrl_gym.envs.registry import PREFIX, ModelNotAvailable, find_model
from mbrl_gym.play import Game
from mbrl_gym.play.session import FPS
from mbrl_gym.play.window import play_window
from mbrl_gym.store import load_model


def run_play(args: Play) -> int:
    """Serve the page, or open the window, until Ctrl-C or the window's end; return the exit code."""
    torch.set_num_threads(1)  # every player has a thread
    if not FPS[0] <= args.fps <= FPS[1]:
        raise UserError(f"--fps must be {FPS[0]} to {FPS[1]}, got {args.fps}")
    _check_installed(args)
    game = _game(args)
    try:
        if args.window:
            play_window(game)
            return 0
        _serve(game, args)
    except KeyboardInterrupt:  # how one stops playing; the server may have taken it for itself
        pass
    print("\nStopped.")
    return 0


def _check_installed(args: Play) -> None:
    wanted, extra = (("pygame",), "viz") if args.window else (("starlette", "uvicorn", "websockets"), "serve")
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"playing needs {', '.join(missing)}; install it with: pip install 'mbrl-gym[{extra}]'")


def _game(args: Play) -> Game:
    with user_errors(CheckpointError, ModelNotAvailable):
        stored = load_model(_model_folder(args.id), "cpu")
    player = _player(args)
    options = {"record": args.record, "fps": args.fps}
    if player is None:
        return Game.of(stored, args.id, args.real and not args.window, **options)
    game = Game.of(stored, args.id, args.real, policy=player.predict, policy_name=type(player).__name__, **options)
    _check_spaces(args, game, player)
    return game


def _model_folder(name: str) -> Path:
    """Return the checkpoint that an id, a model's folder or a run's folder stands for."""
    folder = Path(name)
    for candidate in (folder, RunFolder(folder).model):
        if is_checkpoint(candidate):
            return candidate
    if not name.startswith(PREFIX):
        raise UserError(f"{name} is neither a learned id, as in {PREFIX}Pendulum-v1, nor a folder with a model in it")
    return find_model(name)


# ---- a policy that can play -----------------------------------------------------------------------------------------


def _player(args: Play) -> Any:
    """Return the agent or the algorithm of SB3's that can play too; None where none was asked for."""
    if args.policy is None:
        if args.algo is not None:
            raise UserError("--algo says what made the file of --policy; give both, or neither")
        return None
    if args.window:
        raise UserError("--policy plays on the page alone; leave out --window")
    # Where nobody but you plays, the page need not wait for Stable-Baselines3.
    from mbrl_gym.cli.agents import load_agent
    from mbrl_gym.cli.real import find_algorithm

    if args.policy.is_dir():
        run = RunFolder(args.policy)
        return load_agent(run, run.read()["arguments"], "cpu")
    if args.algo is None:
        raise UserError(f"--algo must say which algorithm made {args.policy}, as in --algo ppo")
    algorithm = find_algorithm(args.algo)
    # What SB3 raises of a file that is none of its own depends on where it stumbles.
    with user_errors(Exception, prefix=f"{algorithm.__name__} cannot read {args.policy}: "):
        return algorithm.load(args.policy, device="cpu")


def _check_spaces(args: Play, game: Game, player: Any) -> None:
    dream = game.dream()
    wanted, got = (dream.observation_space, dream.action_space), (player.observation_space, player.action_space)
    dream.close()
    if got != wanted:
        raise UserError(
            f"--policy {args.policy} reads {got[0]} and acts in {got[1]}, but {args.id} has {wanted[0]} and {wanted[1]}"
        )


# ---- the page -------------------------------------------------------------------------------------------------------


def _serve(game: Game, args: Play) -> None:
    from mbrl_gym.play.server import listen, make_server

    try:
        listening = listen(args.host, args.port)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot listen on port {args.port} of {args.host}: {why}; choose another --port, or 0 for a free one"
        ) from error
    name = f"[{args.host}]" if ":" in args.host else args.host
    url = f"http://{name}:{listening.getsockname()[1]}/"
    beside = f"beside {game.stored.real_id}" if game.real else f"alone, because {game.no_real}"
    print(f"Play {args.id} at {url} ({beside}). Ctrl-C stops.", flush=True)
    if args.browser:
        webbrowser.open(url)  # the socket listens already: the page waits until the server runs
    make_server(game, args.host).run(sockets=[listening])
