"""Whether every token has a row in the embedding."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from tune_checkpoint.checks.problems import Problem, problem, problem_of
from tune_checkpoint.errors import CorruptFileError, ReadFailedError
from tune_checkpoint.plan import TensorSlice
from tune_checkpoint.planning import copied_file
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


class Rows(Struct, frozen=True):
    """What was found about the tokens' rows."""

    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    """What may well be meant: Gemma 3 adds a token for images to models that read text alone."""


def check_tokenizer(folder: Path, embedding: TensorSlice) -> Rows | None:
    """Hold the highest token id against the rows of the embedding.

    Args:
        folder: where a `tokenizer.json` or `tokenizer.model` may be.
        embedding: (vocabulary, hidden).

    Returns:
        What is wrong or odd; None if there is neither file.

    Raises:
        UnsupportedCheckpointError: there is a `tokenizer.model` of a kind that cannot be read.
    """
    path = folder / TOKENIZER
    try:
        if path.is_file():
            (token, number), (added, added_number) = _highest(path)
        elif (folder / MODEL).is_file():
            path = folder / MODEL
            number = tokenizer_files_from(path).vocab_size - 1
            token, added, added_number = f"number {number}", "", -1
        else:
            return None
    except (CorruptFileError, ReadFailedError) as error:
        return Rows((problem_of("tokenizer", folder, error),))
    rows = embedding.shape[0]
    has = f"but the embedding has {rows} rows ({embedding.name})"
    if number >= rows:
        why = "the tokenizer is another model's, or the embedding was not resized"
        return Rows((problem("tokenizer", path, f"token {token!r} has the id {number}, {has}; {why}"),))
    if added_number >= rows:
        what = f"token {added!r} was added with the id {added_number}, {has}; the model cannot read it"
        return Rows(notes=(f"{path.name}: {what}",))
    return Rows()


def _highest(path: Path) -> tuple[tuple[str, int], tuple[str, int]]:
    """The token with the highest id of a `tokenizer.json`'s vocabulary, and of those that are added to it."""
    try:
        tokenizer = msgspec.json.decode(copied_file(path).content, type=_Tokenizer)
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise CorruptFileError(f"{path}: cannot be read: {error}") from error
    vocab = tokenizer.model.vocab
    added = {token.content: token.id for token in tokenizer.added_tokens}
    own = (  # an added token may stand in the vocabulary, too
        [item for item in vocab.items() if item[0] not in added]
        if isinstance(vocab, dict)
        else [(f"number {len(vocab) - 1}", len(vocab) - 1)]
    )
    return _last(own), _last(added.items())


def _last(tokens: Iterable[tuple[str, int]]) -> tuple[str, int]:
    return max(tokens, key=lambda token: token[1], default=("", -1))
