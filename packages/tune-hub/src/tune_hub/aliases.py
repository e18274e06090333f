"""Short names of models, few and certain, and the repositories that they stand for."""

import re
from typing import NamedTuple

from tune_hub.errors import RepositoryNotFoundError


class _Family(NamedTuple):
    """Models that differ in size alone. `{}` is the size, as the makers write it."""

    alias: str
    sizes: str
    plain: str
    """Repository of the short name as it stands: the base model, or the only one that there is."""
    instruct: str | None = None
    base: str | None = None
    """Where the makers give the plain name to the instruct model, and another to the base."""


_FAMILIES = (
    _Family("llama3-{}", "8B 70B", "meta-llama/Meta-Llama-3-{}", "meta-llama/Meta-Llama-3-{}-Instruct"),
    _Family("llama3.1-{}", "8B 70B", "meta-llama/Llama-3.1-{}", "meta-llama/Llama-3.1-{}-Instruct"),
    _Family("llama3.2-{}", "1B 3B", "meta-llama/Llama-3.2-{}", "meta-llama/Llama-3.2-{}-Instruct"),
    _Family("qwen2.5-{}", "0.5B 1.5B 3B 7B 14B 32B 72B", "Qwen/Qwen2.5-{}", "Qwen/Qwen2.5-{}-Instruct"),
    _Family("qwen3-{}", "0.6B 1.7B 4B 8B 14B", "Qwen/Qwen3-{}", "Qwen/Qwen3-{}", "Qwen/Qwen3-{}-Base"),
    _Family("qwen3-{}", "32B", "Qwen/Qwen3-{}", "Qwen/Qwen3-{}"),  # its base was never published
    _Family("gemma2-{}", "2b 9b 27b", "google/gemma-2-{}", "google/gemma-2-{}-it"),
    _Family("gemma3-{}", "1b 4b 12b 27b", "google/gemma-3-{}-pt", "google/gemma-3-{}-it"),
    _Family("smollm2-{}", "135M 360M 1.7B", "HuggingFaceTB/SmolLM2-{}", "HuggingFaceTB/SmolLM2-{}-Instruct"),
    _Family(
        "smollm3-{}",
        "3B",
        "HuggingFaceTB/SmolLM3-{}",
        "HuggingFaceTB/SmolLM3-{}",
        "HuggingFaceTB/SmolLM3-{}-Base",
    ),
    _Family("olmo2-{}", "1B", "allenai/OLMo-2-0425-{}", "allenai/OLMo-2-0425-{}-Instruct"),
    _Family("olmo2-{}", "7B", "allenai/OLMo-2-1124-{}", "allenai/OLMo-2-1124-{}-Instruct"),
    _Family(
        "granite3.3-{}", "2b 8b", "ibm-granite/granite-3.3-{}-base", "ibm-granite/granite-3.3-{}-instruct"
    ),
)

_SINGLE = {
    "llama2": "meta-llama/Llama-2-7b-hf",
    "llama2-chat": "meta-llama/Llama-2-7b-chat-hf",
    "llama2-7b": "meta-llama/Llama-2-7b-hf",
    "llama2-7b-chat": "meta-llama/Llama-2-7b-chat-hf",
    "llama2-13b": "meta-llama/Llama-2-13b-hf",
    "llama2-13b-chat": "meta-llama/Llama-2-13b-chat-hf",
    "llama2-70b": "meta-llama/Llama-2-70b-hf",
    "llama2-70b-chat": "meta-llama/Llama-2-70b-chat-hf",
    "llama2-meta": "meta-llama/Llama-2-7b",
    "mistral": "mistralai/Mistral-7B-v0.1",
    "mistral-instruct": "mistralai/Mistral-7B-Instruct-v0.3",
    "llama3.3-70b-instruct": "meta-llama/Llama-3.3-70B-Instruct",
    "phi-3-mini": "microsoft/Phi-3-mini-4k-instruct",
    "phi-3-mini-instruct": "microsoft/Phi-3-mini-4k-instruct",
    "phi-4": "microsoft/phi-4",
    "phi-4-mini": "microsoft/Phi-4-mini-instruct",
    "phi-4-mini-instruct": "microsoft/Phi-4-mini-instruct",
}


def _of_family(family: _Family) -> dict[str, str]:
    names: dict[str, str] = {}
    for size in family.sizes.split():
        alias = family.alias.format(size.lower())
        for ending, repository in (
            ("", family.plain),
            ("-instruct", family.instruct),
            ("-base", family.base),
        ):
            if repository:
                names[alias + ending] = repository.format(size)
    return names


ALIASES: dict[str, str] = dict(
    _SINGLE, **{name: repository for family in _FAMILIES for name, repository in _of_family(family).items()}
)
"""Short name to `organisation/model`."""


def resolve_alias(name: str) -> str | None:
    """Return the repository that a short name stands for, as `organisation/model`, or None."""
    return ALIASES.get(name.lower())


def nearest_aliases(name: str) -> list[str]:
    """Return up to three short names that `name` may mean, the likeliest first; none if none is near."""
    import difflib

    plain = re.sub(r"[-_. ]+", "-", name.lower().rpartition("/")[2])
    by_plain = {alias.replace(".", "-"): alias for alias in ALIASES}
    if plain in by_plain:
        return [by_plain[plain]]
    return [by_plain[near] for near in difflib.get_close_matches(plain, by_plain, n=3, cutoff=0.75)]


def repository_of(model: str) -> str:
    """Return the repository that a user names.

    Args:
        model: a short name, or `organisation/model`, which is returned as it stands.

    Raises:
        RepositoryNotFoundError: it is neither; the nearest short names are told.
    """
    if repository := resolve_alias(model):
        return repository
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", model, re.ASCII):
        return model
    near = nearest_aliases(model)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise RepositoryNotFoundError(
        f"{model or repr(model)}: no such model{hint}\n"
        "  `tune download --list` lists the short names; any other is written ORGANISATION/MODEL"
    )
