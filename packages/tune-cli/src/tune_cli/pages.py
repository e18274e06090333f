"""Renders the stored help pages: `uv run python -m tune_cli.pages`."""

import io
from pathlib import Path

from tune_cli.app import ALIASES, COMMANDS, make_app
from tune_cli.help import WIDTH

FOLDER = Path(__file__).parent / "pages"


def render(command: str | None = None) -> str:
    """Return the help page of a command, or of `tune` itself, as cyclopts renders it."""
    from rich.console import Console

    text = io.StringIO()
    console = Console(file=text, width=WIDTH, no_color=True, highlight=False, markup=False, emoji=False)
    make_app().help_print([command] if command else [], console=console)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()).strip() + "\n"


def pages() -> dict[str, str]:
    """Return every page by its file name."""
    names = {"tune": None, **{name: name for name in (*COMMANDS, *ALIASES)}}
    return {f"{name}.txt": render(command) for name, command in names.items()}


if __name__ == "__main__":
    for file_name, page in pages().items():
        (FOLDER / file_name).write_text(page, encoding="utf-8")
