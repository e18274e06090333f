"""What is printed at once, and how words come to the commands."""

import re

import pytest

from tune_cli import __version__
from tune_cli.app import COMMANDS
from tune_cli.configured import split_overrides
from tune_cli.pages import FOLDER


@pytest.mark.parametrize("words", [["-V"], ["--version"], ["--version", "run"]], ids=" ".join)
def test_the_version_is_printed(tune, words):
    assert tune(*words)[:3] == (0, f"tune {__version__}\n", "")
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", __version__)


OVERVIEW = [[], ["help"], ["--help"], ["-h"], ["help", "help"], ["--help", "-h"]]


@pytest.mark.parametrize("words", OVERVIEW, ids=" ".join)
def test_the_overview_is_printed(tune, words):
    assert tune(*words)[:3] == (0, (FOLDER / "tune.txt").read_text(), "")


@pytest.mark.parametrize(
    "words", [["help", "cp"], ["cp", "help"], ["--help", "cp"], ["cp", "x", "-h"]], ids=" ".join
)
def test_a_commands_page_is_printed_however_it_is_asked_for(tune, words):
    assert tune(*words)[:3] == (0, (FOLDER / "cp.txt").read_text(), "")


def test_launch_is_another_name_for_run(tune):
    assert tune("launch", "--help").out == tune("help", "run").out
    assert tune("launch", "generate", "--help").out == tune("run", "generate", "--help").out


def test_every_command_has_a_page():
    assert {f"{name}.txt" for name in (*COMMANDS, "launch", "tune")} == {
        path.name for path in FOLDER.iterdir()
    }


def test_debug_is_taken_by_every_command(tune_here):
    assert tune_here("ls", "--json", "--debug").code == 0


def test_an_unexpected_error_is_one_message_and_debug_shows_the_traceback(tune_here, monkeypatch):
    monkeypatch.setattr("tune_cli.commands.ls.print_json", 3)
    said = tune_here("ls", "--json")
    assert (said.code, said.err) == (
        1,
        "error: TypeError: 'int' object is not callable\n  --debug shows the traceback\n",
    )
    with pytest.raises(TypeError):
        tune_here("ls", "--json", "--debug")


@pytest.mark.parametrize(
    ("words", "names", "overrides"),
    [
        (["r", "a=1", "--b=2", "~c"], ["r"], ["a=1", "--b=2", "~c"]),
        (["--a", "1", "r"], ["r"], ["--a", "1"]),
        (["--a", "-1", "r"], ["r"], ["--a", "-1"]),
        (["--a", "~x", "r"], ["r"], ["--a", "~x"]),
        (["--a", "--b", "1", "r"], ["r"], ["--a", "--b", "1"]),
        (["--help", "r"], ["r"], ["--help"]),
        (["-h", "r"], ["r"], ["-h"]),
        (["r", "--a"], ["r"], ["--a"]),
        (["r", "s"], ["r", "s"], []),
        (["r", "p=" + "x" * 9999], ["r"], ["p=" + "x" * 9999]),
        (["r", "p=" + "x" * 9999 + ".py"], ["r"], ["p=" + "x" * 9999 + ".py"]),
        ([], [], []),
    ],
)
def test_words_are_names_or_set_something(words, names, overrides):
    assert split_overrides(words) == (names, overrides)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_has_not_every_sign_still_gets_the_output(tune, encoding):
    done = tune("cp", "generate", "日本.py", env={"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"})
    assert done.code == 0
    assert done.out.startswith("Copied generate.py to ")
