"""`mbrl-gym`: runs a command, and turns errors of the user into one line."""

import os
import sys
import traceback
from collections.abc import Sequence

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes

from mbrl_gym.cli.commands import Command, Common
from mbrl_gym.cli.errors import INTERRUPTED, USER_ERROR, UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code: 0; 2 for a user's error; 130 after Ctrl-C."""
    command: Common = tyro.cli(
        Command,
        args=arguments,
        prog="mbrl-gym",
        description="Learned models of Gymnasium environments, handed back as Gymnasium environments.",
        config=(OmitArgPrefixes, FlagCreatePairsOff),
    )
    # Where pictures are drawn in memory, SDL would complain of no display.
    for driver in () if command.needs_screen() else ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER"):
        os.environ.setdefault(driver, "dummy")
    try:
        return command.run()
    except UserError as error:
        if command.debug:
            traceback.print_exc()
        print(f"mbrl-gym: error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("\nmbrl-gym: interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
