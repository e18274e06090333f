"""`tune inspect`."""

from pathlib import Path

from tune_cli.output import print_json


def inspect(path: Path, /, *, tensors: bool = False, json: bool = False) -> None:
    """Say what a checkpoint holds, from headers alone.

    Args:
        path: A checkpoint or an adapter: a folder or a file.
        tensors: List each tensor, and not layers together.
        json: Print one JSON object.
    """
    from tune_checkpoint import inspect as look
    from tune_checkpoint.text import inspection_lines

    found = look(path)
    print_json(found) if json else print("\n".join(inspection_lines(found, tensors=tensors)))
