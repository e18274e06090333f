"""The `tokenizer.json` of a Hugging Face folder that has only the vocabulary which it is made from."""

import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tune_checkpoint.companions import TOKENIZER_CONFIG
from tune_checkpoint.errors import CheckpointError
from tune_checkpoint.plan import SideFile
from tune_checkpoint.planning import added_ids, is_object, read_json
from tune_checkpoint.tokenizers.files import TokenizerFiles, tokenizer_files_from

TOKENIZER = "tokenizer.json"
SOURCES = ("tokenizer.model", "tokenizer.model.v*", "tekken.json")
"""What it can be made from, the first of those that are there; of versions the last."""
TEMPLATES = {"chat_template.jinja", "chat_template.json"}


def missing_tokenizer(
    folder: Path, names: Sequence[str], config: dict[str, Any]
) -> tuple[list[SideFile], list[str]]:
    """Make `tokenizer.json`, and `tokenizer_config.json` if that lacks too; and warnings.

    Args:
        folder: where the vocabulary stands.
        names: of the files that go along.
        config: `config.json`, or nothing.
    """
    found = (name for pattern in SOURCES for name in sorted(fnmatch.filter(names, pattern), reverse=True))
    source = next((folder / name for name in found), None)
    if TOKENIZER in names or source is None:
        return [], []
    described = read_json(folder / TOKENIZER_CONFIG)
    try:
        made = _made(source, config)
    except CheckpointError as error:
        return [], [f"{TOKENIZER}: none in {folder}, and none can be made: {error}"]
    if any(index >= made.vocab_size for index in _added_ids(folder, described)):
        return [], [
            f"{TOKENIZER}: none in {folder}, and none was made: tokens were added to those of {source.name}; "
            "save the tokenizer with transformers, and convert again"
        ]
    has_template = "chat_template" in described or not TEMPLATES.isdisjoint(names)
    files = [file for file in made.files if file.name not in names]
    warnings = [text for text in made.warnings if not (has_template and text.startswith("chat_template"))]
    return files, warnings


def _made(source: Path, config: dict[str, Any]) -> TokenizerFiles:
    length = config.get("max_position_embeddings")
    text = config.get("text_config")
    num_rows = config.get("vocab_size", text.get("vocab_size") if is_object(text) else None)
    scaled = config.get("rope_scaling") or config.get("rope_parameters")
    is_first = not (is_object(scaled) and "llama3" in (scaled.get("rope_type"), scaled.get("type")))
    return tokenizer_files_from(
        source,
        max_length=length if type(length) is int else None,
        generation="llama3" if is_first else "llama3.1",
        vocab_size=num_rows if type(num_rows) is int else None,
    )


def _added_ids(folder: Path, described: dict[str, Any]) -> list[int]:
    """Ids of the tokens that the JSON files beside a vocabulary add to it, or name from it."""
    added = read_json(folder / "added_tokens.json").values()
    return [*(index for index in added if isinstance(index, int)), *added_ids(described)]
