"""Models on the Hugging Face Hub by short names."""

from tune_hub.aliases import ALIASES, resolve_alias

__all__ = ["ALIASES", "resolve_alias"]
