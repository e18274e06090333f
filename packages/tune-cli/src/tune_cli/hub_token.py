"""`--hf-token`, as every command that talks to the Hub takes it."""

import sys
from typing import Annotated

from cyclopts import Parameter

from tune_cli.output import warn

HfToken = Annotated[str | None, Parameter(name="--hf-token", metavar="TOKEN", allow_leading_hyphen=True)]
"""The option's type; a hyphen alone is a value of it."""


def read_token(option: str | None) -> str | None:
    """Return the token that the command line gives, or None, so that the environment's is used.

    Args:
        option: The value of `--hf-token`; `-` is what stands on standard input.

    Raises:
        UserError: There is none on standard input, or it cannot be one. It is not shown.
    """
    from tune_recipes.errors import UserError

    if option is None:
        return None
    if option.startswith("-") and option != "-":
        raise UserError("--hf-token: a value must follow")
    if option == "-":
        token = _asked_for() if sys.stdin.isatty() else sys.stdin.readline()
    else:
        token = option
        warn(["--hf-token: the list of processes shows it to all users here; `--hf-token -` does not"])
    token = token.strip()
    if not token:
        where = " on standard input" if option == "-" else ""
        raise UserError(
            f"--hf-token: no token{where}\n  leave the option out to use HF_TOKEN or `hf auth login`"
        )
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise UserError("--hf-token: not a token: it has a sign in it that none has\n  copy it again, alone")
    return token


def _asked_for() -> str:
    from getpass import getpass

    return getpass("Token: ")
