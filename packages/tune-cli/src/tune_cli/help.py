"""Draws help pages: what it does, USAGE, arguments, OPTIONS, EXAMPLES, in plain text of 80 columns."""

import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions

WIDTH = 80
INDENT = " " * 4
COLUMN = 24
"""Where the descriptions begin."""


class RfcFormatter:
    """A cyclopts help formatter; the description comes before the usage."""

    def __init__(self):
        self._usage = ""

    def render_usage(self, console: "Console", options: "ConsoleOptions", usage: Any) -> None:
        """Keep the usage until the description is printed."""
        self._usage = str(usage).strip().removeprefix("Usage: ")

    def render_description(self, console: "Console", options: "ConsoleOptions", description: Any) -> None:
        """Print what the command does, then how it is called."""
        text = getattr(description, "primary_renderable", description)
        _print(console, f"{str(text).strip().splitlines()[0]}\n\nUSAGE\n{INDENT}$ {self._usage}")

    def __call__(self, console: "Console", options: "ConsoleOptions", panel: "HelpPanel") -> None:
        """Print a panel: its title, then a row for each entry."""
        title = str(panel.title).upper()
        rows = [row(_label(entry), _description(entry)) for entry in panel.entries if not _is_flag(entry)]
        if not rows:
            return
        _print(console, "\n".join(["", title, *rows, *([HELP] if title == "OPTIONS" else [])]))
        if panel.format == "command":
            _print(console, f"\nOPTIONS\n{HELP}\n{VERSION}")


def row(label: str, description: str) -> str:
    """Return a label with its description beside it, wrapped; below it where the label is too long."""
    first = f"{INDENT}{label}"
    if len(first) >= COLUMN:
        return f"{first}\n{_below(description)}"
    return textwrap.fill(
        description, WIDTH, initial_indent=f"{first:<{COLUMN}}", subsequent_indent=" " * COLUMN
    )


def _below(description: str) -> str:
    return textwrap.fill(description, WIDTH, initial_indent=" " * COLUMN, subsequent_indent=" " * COLUMN)


HELP = row("-h, --help", "Show help message and exit.")
VERSION = row("-V, --version", "Show version number and exit.")


def _is_flag(entry: "HelpEntry") -> bool:
    """Whether an entry is the help or the version flag, which are drawn as options on every page."""
    return bool({"--help", "--version"} & set(entry.all_options))


def _label(entry: "HelpEntry") -> str:
    if entry.positional_label:
        return entry.positional_label
    names = [*entry.positive_shorts, *entry.positive_names, *entry.negative_names]
    names = [name for name in names if "_" not in name]  # the same with `-` stands beside it
    return ", ".join(names) + (f" {entry.metavar}" if entry.metavar else "")


def _description(entry: "HelpEntry") -> str:
    return str(getattr(entry.description, "primary_renderable", entry.description) or "").strip()


def _print(console: "Console", text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
