"""Whether every token has a row in the embedding."""

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from tune_checkpoint.checks.problems import Problem, problem
from tune_checkpoint.plan import TensorSlice

TOKENIZER = "tokenizer.json"


class _Added(Struct):
    id: int
    content: str = ""


class _Model(Struct):
    vocab: dict[str, int] | list[Any] = []


class _Tokenizer(Struct):
    """What is needed of a `tokenizer.json`."""

    model: _Model = msgspec.field(default_factory=_Model)
    added_tokens: list[_Added] = []


def check_tokenizer(folder: Path, embedding: TensorSlice) -> list[Problem] | None:
    """Hold the highest token id against the rows of the embedding.

    Args:
        folder: where a `tokenizer.json` may be.
        embedding: (vocabulary, hidden).

    Returns:
        What is wrong; None if there is no `tokenizer.json`.
    """
    path = folder / TOKENIZER
    if not path.is_file():
        return None
    try:
        tokenizer = msgspec.json.decode(path.read_bytes(), type=_Tokenizer)
    except (OSError, msgspec.MsgspecError, RecursionError) as error:
        return [problem("tokenizer", path, f"cannot be read: {error}")]
    vocab, rows = tokenizer.model.vocab, embedding.shape[0]
    highest = (
        max(vocab.items(), key=lambda item: item[1], default=("", -1))
        if isinstance(vocab, dict)
        else (f"number {len(vocab) - 1}", len(vocab) - 1)
    )
    added = ((token.content, token.id) for token in tokenizer.added_tokens)
    token, number = max((highest, *added), key=lambda item: item[1])
    if number < rows:
        return []
    what = (
        f"token {token!r} has the id {number}, but the embedding has {rows} rows "
        f"({embedding.name}); the tokenizer is another model's, or the embedding was not resized"
    )
    return [problem("tokenizer", path, what)]
