"""Whether every token has a row in the embedding."""

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from tune_checkpoint.checks.problems import Problem, problem, problem_of
from tune_checkpoint.errors import CorruptFileError
from tune_checkpoint.plan import TensorSlice
from tune_checkpoint.tokenizers.files import tokenizer_files_from

TOKENIZER, MODEL = "tokenizer.json", "tokenizer.model"


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
        folder: where a `tokenizer.json` or `tokenizer.model` may be.
        embedding: (vocabulary, hidden).

    Returns:
        What is wrong; None if there is neither file.

    Raises:
        UnsupportedCheckpointError: there is a `tokenizer.model` of a kind that cannot be read.
    """
    path = folder / TOKENIZER
    try:
        if path.is_file():
            token, number = _highest(path)
        elif (folder / MODEL).is_file():
            path = folder / MODEL
            number = tokenizer_files_from(path).vocab_size - 1
            token = f"number {number}"
        else:
            return None
    except CorruptFileError as error:
        return [problem_of("tokenizer", folder, error)]
    rows = embedding.shape[0]
    if number < rows:
        return []
    what = (
        f"token {token!r} has the id {number}, but the embedding has {rows} rows "
        f"({embedding.name}); the tokenizer is another model's, or the embedding was not resized"
    )
    return [problem("tokenizer", path, what)]


def _highest(path: Path) -> tuple[str, int]:
    """The token with the highest id in a `tokenizer.json`."""
    try:
        tokenizer = msgspec.json.decode(path.read_bytes(), type=_Tokenizer)
    except (OSError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise CorruptFileError(f"{path}: cannot be read: {error}") from error
    vocab = tokenizer.model.vocab
    tokens = [(token.content, token.id) for token in tokenizer.added_tokens]
    if isinstance(vocab, list):
        tokens.append((f"number {len(vocab) - 1}", len(vocab) - 1))
    elif vocab:
        tokens.append(max(vocab.items(), key=lambda item: item[1]))
    return max(tokens, key=lambda item: item[1], default=("", -1))
