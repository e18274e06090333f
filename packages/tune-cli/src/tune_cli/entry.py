"""Where the `tune` command begins: what is only printed is printed at once, before anything is imported.

This module, and what runs before `tune_cli.app` is imported, uses no module that Python's own start has not
loaded already: a stored page costs hardly more than starting Python.
"""

import os
import sys

PAGES = os.path.join(os.path.dirname(__file__), "pages")  # noqa: PTH118, PTH120 (pathlib costs more than the page)
HELP = ("--help", "-h")


def main() -> int:
    """Run the command line and return the exit status."""
    words = sys.argv[1:]
    if sys.stdout is None:  # closed before Python began
        return _cannot_print("it is closed")
    try:
        page = _stored_page(words)
        if page is not None:
            sys.stdout.write(page)
        elif words == ["ls"]:
            from tune_cli.listing import write_listing

            write_listing()
        else:
            from tune_cli.app import run

            status = run(words)
            sys.stdout.flush()
            return status
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is not None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python's end tries once more
        return _cannot_print(error.strerror)
    except KeyboardInterrupt:
        return 130
    return 0


def _cannot_print(reason: str | None) -> int:
    print(f"error: cannot write to standard output: {reason}", file=sys.stderr)
    return 1


def _stored_page(words: list[str]) -> str | None:
    """Return the page that a command line asks for, if it asks for a page that is stored."""
    if not words or words in (["help"], *([flag] for flag in HELP)):
        return _read("tune")
    if words[0] in ("--version", "-V"):
        from tune_cli import __version__

        return f"tune {__version__}\n"
    if len(words) == 2 and words[0] in ("help", *HELP):
        return _read("tune" if words[1] in ("help", *HELP) else words[1])
    if len(words) == 2 and words[1] == "help":
        return _read(words[0])
    # Behind a recipe, help is about the recipe; behind anything else about the command.
    asks = len(words) == 2 if words[0] in ("run", "launch") else "--" not in words
    return _read(words[0]) if asks and (HELP[0] in words or HELP[1] in words) else None


def _read(command: str) -> str | None:
    if not command.replace("-", "").isalnum():
        return None
    try:
        with open(f"{PAGES}/{command}.txt", encoding="utf-8") as file:  # noqa: PTH123
            return file.read()
    except FileNotFoundError:
        return None
