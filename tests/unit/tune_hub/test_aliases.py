"""Short names of models."""

import re

import pytest

from tune_hub import ALIASES, resolve_alias


@pytest.mark.parametrize("name", ALIASES)
def test_every_short_name_stands_for_an_organisation_and_a_model(name):
    assert re.fullmatch(r"[\w-]+/[\w.-]+", ALIASES[name])
    assert resolve_alias(name) == ALIASES[name]
    assert re.fullmatch(r"[a-z0-9.-]+", name)


def test_capitals_do_not_matter():
    assert resolve_alias("Llama2") == "meta-llama/Llama-2-7b-hf"


@pytest.mark.parametrize("name", ["", "llama", "meta-llama/Llama-2-7b-hf", "llama2 "])
def test_any_other_name_stands_for_nothing(name):
    assert resolve_alias(name) is None
