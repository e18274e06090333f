"""Short names of models."""

import re

import pytest

from tune_hub import ALIASES, resolve_alias
from tune_hub.aliases import nearest_aliases, repository_of
from tune_hub.errors import RepositoryNotFoundError


@pytest.mark.parametrize("name", ALIASES)
def test_every_short_name_stands_for_an_organisation_and_a_model(name):
    assert re.fullmatch(r"[\w-]+/[\w.-]+", ALIASES[name])
    assert resolve_alias(name) == ALIASES[name]
    assert re.fullmatch(r"[a-z0-9.-]+", name)


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("llama2", "meta-llama/Llama-2-7b-hf"),
        ("llama2-13b-chat", "meta-llama/Llama-2-13b-chat-hf"),
        ("llama2-meta", "meta-llama/Llama-2-7b"),
        ("mistral-instruct", "mistralai/Mistral-7B-Instruct-v0.3"),
        ("llama3-8b", "meta-llama/Meta-Llama-3-8B"),
        ("llama3.1-70b-instruct", "meta-llama/Llama-3.1-70B-Instruct"),
        ("qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B"),
        ("gemma2-9b-instruct", "google/gemma-2-9b-it"),
        ("gemma3-1b", "google/gemma-3-1b-pt"),
        ("smollm2-1.7b", "HuggingFaceTB/SmolLM2-1.7B"),
        ("olmo2-1b", "allenai/OLMo-2-0425-1B"),
        ("olmo2-7b-instruct", "allenai/OLMo-2-1124-7B-Instruct"),
        ("granite3.3-2b", "ibm-granite/granite-3.3-2b-base"),
    ],
)
def test_a_short_name_stands_for_the_repository_that_its_makers_published(name, repository):
    assert resolve_alias(name) == repository


@pytest.mark.parametrize("name", ["qwen3-0.6b", "smollm3-3b"])
def test_a_name_that_the_makers_gave_to_the_instruct_model_stands_for_it_and_base_for_the_base(name):
    assert resolve_alias(name) == resolve_alias(f"{name}-instruct")
    assert resolve_alias(f"{name}-base") == f"{resolve_alias(name)}-Base"


def test_a_model_that_was_never_published_has_no_name():
    assert resolve_alias("qwen3-32b")
    assert resolve_alias("qwen3-32b-base") is None
    assert resolve_alias("llama3.3-70b") is None


@pytest.mark.parametrize(("short", "sized"), [("llama2", "llama2-7b"), ("llama2-chat", "llama2-7b-chat")])
def test_the_smallest_llama2_has_its_size_as_a_name_too(short, sized):
    assert resolve_alias(sized) == resolve_alias(short)


def test_capitals_do_not_matter():
    assert resolve_alias("Llama2") == "meta-llama/Llama-2-7b-hf"


@pytest.mark.parametrize("name", ["", "llama", "meta-llama/Llama-2-7b-hf", "llama2 "])
def test_any_other_name_stands_for_nothing(name):
    assert resolve_alias(name) is None


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("llama-2", "llama2"), ("qwen2_5-7b", "qwen2.5-7b"), ("Smollm2-135", "smollm2-135m"), ("phi4", "phi-4")],
)
def test_the_nearest_short_name_comes_first(typed, meant):
    assert nearest_aliases(typed)[0] == meant


def test_nothing_is_near_to_what_is_far():
    assert nearest_aliases("gpt-neox") == []


@pytest.mark.parametrize("repository", ["acme/tiny", "meta-llama/Llama-2-7b-hf", "a_b/c.d-e"])
def test_an_organisation_and_a_model_are_taken_as_they_stand(repository):
    assert repository_of(repository) == repository


def test_a_short_name_is_a_repository_too():
    assert repository_of("Mistral") == "mistralai/Mistral-7B-v0.1"


@pytest.mark.parametrize("typed", ["", "llama9", "a/b/c", "../x", "./models", "a/../b", "a b/c", "/x"])
def test_what_is_neither_is_refused_with_what_to_try(typed):
    with pytest.raises(RepositoryNotFoundError, match="no such model") as caught:
        repository_of(typed)
    assert "tune download --list" in str(caught.value)


def test_the_refusal_suggests_the_nearest():
    with pytest.raises(RepositoryNotFoundError, match=r"did you mean llama3-8b"):
        repository_of("llama3-8")
