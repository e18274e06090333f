"""The stored help pages are what cyclopts renders, and fit a terminal of 80 columns."""

import pytest

from tune_cli.app import COMMANDS
from tune_cli.pages import FOLDER, pages


def test_stored_pages_equal_what_cyclopts_renders():
    stored = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.txt")}
    assert stored == pages(), "render them again: uv run python -m tune_cli.pages"


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.txt")))
def test_pages_are_plain_and_fit_80_columns(name):
    page = (FOLDER / name).read_text(encoding="utf-8")
    assert page.isascii()
    assert max(map(len, page.splitlines())) <= 80


def test_overview_names_every_command_with_a_line():
    overview = (FOLDER / "tune.txt").read_text(encoding="utf-8")
    unwrapped = " ".join(overview.replace(", launch", "").split())
    for name, summary in COMMANDS.items():
        assert f" {name} {summary} " in unwrapped


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("ask", ["--help", "-h"])
def test_help_works_wherever_it_stands(tune, command, ask):
    page = (FOLDER / f"{command}.txt").read_text(encoding="utf-8")
    assert tune(command, ask).out == page
    if command != "run":
        assert tune(command, "some", "words", ask).out == page
