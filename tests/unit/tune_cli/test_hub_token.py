"""`--hf-token`: where the token comes from, and that it is not shown."""

import io

import pytest

from tune_cli.hub_token import read_token
from tune_recipes.errors import UserError


def test_without_the_option_the_environment_decides():
    assert read_token(None) is None


def test_a_token_on_the_command_line_is_taken_with_a_warning_that_does_not_show_it(capsys):
    assert read_token("hf_alice") == "hf_alice"
    said = capsys.readouterr().err
    assert said.startswith("warning: --hf-token: the list of processes shows it")
    assert "hf_alice" not in said


def test_a_token_on_standard_input_is_taken_without_one(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("hf_alice\nmore\n"))
    assert read_token("-") == "hf_alice"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("typed", ["", "\n", "  \n"])
def test_nothing_on_standard_input_is_refused(monkeypatch, typed):
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    with pytest.raises(UserError, match="no token on standard input"):
        read_token("-")


def test_an_option_in_place_of_a_token_is_no_token():
    with pytest.raises(UserError, match="--hf-token: a value must follow"):
        read_token("--private")


@pytest.mark.parametrize("token", ["", "hf_a b", "hf_ä", "hf_\x1b[1m"])
def test_what_can_be_no_token_is_refused_and_not_shown(token):
    with pytest.raises(UserError, match="no") as caught:
        read_token(token)
    assert not token or token not in str(caught.value)
