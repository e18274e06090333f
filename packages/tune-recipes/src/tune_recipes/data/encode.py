"""Token ids of samples, and which of them are to be learned."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from tokenizers import Encoding

from tune_recipes.chat import Span
from tune_recipes.data.formats import Sample
from tune_recipes.data.records import Record
from tune_recipes.errors import UserError
from tune_recipes.tokenizer import Tokenizer

# Samples tokenized at once: enough for all cores, few enough that their character offsets take little memory.
CHUNK_SIZE = 1024


class Example(NamedTuple):
    """A record as token ids."""

    ids: list[int]
    """Of prompt and answers, special tokens included."""
    is_target: list[bool]
    """For each id, whether the model learns to predict it."""
    where: str
    """The record it was made of."""


def encode_records(
    records: Iterable[Record],
    make_sample: Callable[[Record], Sample],
    tokenizer: Tokenizer,
    *,
    max_seq_len: int,
) -> Iterator[Example]:
    """Tokenize records.

    A text is tokenized whole, prompt and answer together, so that ids are those that the model sees when it
    generates; a token that covers both the end of a prompt and the beginning of its answer is learned.

    Args:
        records: The records.
        make_sample: Makes text of a record; see `build_format`.
        tokenizer: The checkpoint's.
        max_seq_len: Positions of the model that an example may fill; what comes after is cut off. The model
            reads all but the last id, so an example has at most one id more.

    Yields:
        An example for each record, in order.

    Raises:
        UserError: A record has nothing to learn, from the beginning or after it was cut.
    """
    samples = map(make_sample, records)
    while chunk := list(islice(samples, CHUNK_SIZE)):
        encodings = tokenizer.encode_batch([sample.text for sample in chunk])
        for sample, encoding in zip(chunk, encodings, strict=True):
            whole = _example(sample, encoding, tokenizer)
            example = Example(whole.ids[: max_seq_len + 1], whole.is_target[: max_seq_len + 1], whole.where)
            if not any(example.is_target[1:]):  # nothing predicts the first
                raise UserError(_nothing_to_learn(sample, whole, max_seq_len))
            yield example


def _example(sample: Sample, encoding: Encoding, tokenizer: Tokenizer) -> Example:
    ids = encoding.ids
    is_target = [False] * len(ids)
    for start, end in sample.answers:
        first, last = _token_range(encoding, start, end, len(sample.text))
        is_target[first:last] = [True] * (last - first)
    if sample.is_complete:
        return Example(ids, is_target, sample.where)
    surrounded, num_before = tokenizer.surround(ids)
    num_after = len(surrounded) - len(ids) - num_before
    is_target = [False] * num_before + is_target + [True] * num_after
    if tokenizer.eos_id is not None and surrounded[-1:] != [tokenizer.eos_id]:
        surrounded, is_target = [*surrounded, tokenizer.eos_id], [*is_target, True]
    return Example(surrounded, is_target, sample.where)


def _token_range(encoding: Encoding, start: int, end: int, num_chars: int) -> Span:
    """The tokens [first, last) that cover any of the characters [start, end)."""
    # A normalizer may have dropped a character: then it has no token, and the next one that has tells.
    covering = (encoding.char_to_token(char) for char in range(start, end))
    first = next((token for token in covering if token is not None), None)
    if first is None:
        return 0, 0
    following = (encoding.char_to_token(char) for char in range(end, num_chars))
    last = next((token for token in following if token is not None), len(encoding.ids))
    span = encoding.token_to_chars(last) if last < len(encoding.ids) else None
    covers_both = span is not None and span[0] < end
    return first, last + 1 if covers_both else last


def _nothing_to_learn(sample: Sample, whole: Example, max_seq_len: int) -> str:
    if not any(whole.is_target[1:]):
        reason = "no assistant message" if sample.is_complete else "no tokens after the first"
        return f"{sample.where}: has nothing to learn ({reason}); remove the record" + (
            ", or set data.train_on_input=true to learn its prompt" if sample.is_complete else ""
        )
    first = whole.is_target.index(True, 1)
    return (
        f"{sample.where}: has nothing to learn in its first {max_seq_len} tokens: the answer begins after "
        f"{first}; raise data.max_seq_len to {len(whole.ids) - 1} for the whole record, set "
        "data.train_on_input=true, or remove the record"
    )
