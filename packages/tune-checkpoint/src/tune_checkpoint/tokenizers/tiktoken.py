"""Llama 3's `tokenizer.model`, a table of tokens and ranks, as the parts of `tokenizer.json`.

Source: `load_tiktoken_bpe` of openai/tiktoken for the table; for the split and special tokens `Tokenizer` of
meta-llama/llama3 (llama/tokenizer.py), and the tokenizer.json that Meta publishes for 3.1 and later.
"""

import re
from binascii import Error, a2b_base64
from pathlib import Path
from typing import Literal

from tune_checkpoint.errors import CorruptFileError
from tune_checkpoint.mapped import MappedFile
from tune_checkpoint.tokenizers.bpe import MAX_TOKEN_LENGTH
from tune_checkpoint.tokenizers.byte_level import ByteTokens, byte_level_parts
from tune_checkpoint.tokenizers.splits import LLAMA3_SPLIT
from tune_checkpoint.tokenizers.tokenizer_json import TokenizerParts

Generation = Literal["llama3", "llama3.1"]
"""Which names the special tokens have: those of 3.0, or of 3.1 and later."""

LLAMA3_RANKS = 128_000
NUM_SPECIAL = 256
MAX_BYTES = 100_000_000
"""The largest known table has 4 MB."""

_LINE = re.compile(rb"([A-Za-z0-9+/]+={0,2}) ([0-9]{1,9})")
_NAMED: dict[Generation, tuple[str, ...]] = {
    "llama3": (
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|reserved_special_token_0|>",
        "<|reserved_special_token_1|>",
        "<|reserved_special_token_2|>",
        "<|reserved_special_token_3|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|reserved_special_token_4|>",
        "<|eot_id|>",
    ),
    "llama3.1": (
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|reserved_special_token_0|>",
        "<|reserved_special_token_1|>",
        "<|finetune_right_pad_id|>",
        "<|reserved_special_token_2|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eom_id|>",
        "<|eot_id|>",
        "<|python_tag|>",
    ),
}
"""Those at the beginning; the rest is reserved and numbered on."""

_ROLES = {
    "bos": "<|begin_of_text|>",
    "eos": "<|end_of_text|>",
    "pad": "<|finetune_right_pad_id|>",
}


def is_tiktoken(file: MappedFile) -> bool:
    """Whether a file's first line is a token in base64 and its rank."""
    line = bytes(file.view[: 2 * MAX_TOKEN_LENGTH]).split(b"\n", 1)[0]
    return _LINE.fullmatch(line.rstrip(b"\r")) is not None


def read_tiktoken(file: MappedFile) -> list[bytes]:
    """The tokens of a rank table, in the order of their ranks.

    Raises:
        CorruptFileError: a line is no token with a rank, or the ranks are not 0, 1, 2, ...
    """
    if file.size > MAX_BYTES:
        raise CorruptFileError(f"{file.path}: {file.size} bytes; no table of ranks has over {MAX_BYTES}")
    ranks: dict[int, bytes] = {}
    for number, line in enumerate(bytes(file.view).splitlines(), 1):
        if not line:
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise _bad_line(file.path, number, "is no token in base64 with its rank")
        rank = int(match[2])
        if rank in ranks:
            raise _bad_line(file.path, number, f"gives rank {rank} a second time")
        ranks[rank] = decode_token(match[1], f"{file.path}: line {number}")
    if sorted(ranks) != list(range(len(ranks))):
        missing = next(rank for rank in range(len(ranks)) if rank not in ranks)
        raise CorruptFileError(f"{file.path}: no line has rank {missing}, though later ranks are there")
    return [ranks[rank] for rank in range(len(ranks))]


def decode_token(text: bytes | str, where: str) -> bytes:
    """A token from base64."""
    try:
        token = a2b_base64(text, strict_mode=True)
    except (Error, ValueError) as error:
        raise CorruptFileError(f"{where}: {text[:40]!r} is not base64: {error}") from error
    if not 0 < len(token) <= MAX_TOKEN_LENGTH:
        raise CorruptFileError(
            f"{where}: a token of {len(token)} bytes; 1 to {MAX_TOKEN_LENGTH} are possible"
        )
    return token


def llama3_parts(path: Path, tokens: list[bytes], generation: Generation) -> tuple[TokenizerParts, list[str]]:
    """The tokenizer of Llama 3, and what may be wrong with it, one sentence each.

    Raises:
        CorruptFileError: the tokens contradict each other.
    """
    warnings: list[str] = []
    if len(tokens) != LLAMA3_RANKS:
        warnings.append(
            f"tokenizer.json: {path.name} has {len(tokens)} tokens, Llama 3's {LLAMA3_RANKS}; its way to "
            "split text and its special tokens were written all the same"
        )
    special = special_tokens(generation)
    content = ByteTokens(
        tokens=tokens,
        first_id=0,
        special={len(tokens) + index: token for index, token in enumerate(special)},
        roles={role: token for role, token in _ROLES.items() if token in special},
        split=LLAMA3_SPLIT,
    )
    return byte_level_parts(path, content), warnings


def special_tokens(generation: Generation) -> list[str]:
    """The 256 special tokens, in the order of their ids."""
    named = _NAMED[generation]
    num_reserved = sum("reserved" in token for token in named)
    numbers = range(num_reserved, num_reserved + NUM_SPECIAL - len(named))
    return [*named, *(f"<|reserved_special_token_{number}|>" for number in numbers)]


def _bad_line(path: Path, number: int, what: str) -> CorruptFileError:
    return CorruptFileError(f"{path}: line {number} {what}; it is damaged: download or copy it again")
