"""Short names of models, few and certain, and the repositories that they stand for."""

ALIASES = {
    "llama2": "meta-llama/Llama-2-7b-hf",
    "mistral": "mistralai/Mistral-7B-v0.1",
    "smollm2-135m": "HuggingFaceTB/SmolLM2-135M",
    "smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct",
}


def resolve_alias(name: str) -> str | None:
    """Return the repository that a short name stands for, as `organisation/model`, or None."""
    return ALIASES.get(name.lower())
