"""Errors of users: one clear line, no traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

USER_ERROR, INTERRUPTED = 2, 130  # exit codes


class UserError(Exception):
    """What the user asked for cannot be done; the message, one line, says why and what can."""

    def __init__(self, message: object) -> None:
        super().__init__(" ".join(str(message).split()))


@contextmanager
def user_errors(*kinds: type[BaseException], prefix: str = "") -> Iterator[None]:
    """Turn errors of these kinds into the user's own: for the parts where nothing but the request can be wrong."""
    try:
        yield
    except kinds as error:
        raise UserError(f"{prefix}{error}") from error
