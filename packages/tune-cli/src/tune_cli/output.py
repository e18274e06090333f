"""How the commands print data."""

import sys
from collections.abc import Iterable


def print_json(value: object) -> None:
    """Print one JSON document on standard output."""
    from tune_checkpoint.plain import json_text

    sys.stdout.write(json_text(value) + "\n")


def warn(warnings: Iterable[str]) -> None:
    """Print warnings on standard error."""
    for warning in warnings:
        tell("warning", warning)


def tell(kind: str, message: str) -> None:
    """Print a message on standard error, with what a terminal would obey in it spelled out.

    Args:
        kind: `error` or `warning`.
        message: what is told; parts of it, such as the name of a tensor, may be a file's.
    """
    from tune_checkpoint.plain import printable_text

    print(f"{kind}: {printable_text(message)}", file=sys.stderr)
