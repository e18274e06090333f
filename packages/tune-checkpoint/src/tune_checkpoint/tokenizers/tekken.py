"""Mistral's `tekken.json` as the parts of `tokenizer.json`.

Source: `Tekkenizer.from_file` of mistralai/mistral-common (tokens/tokenizers/tekken.py): special tokens have
the first ids, and of the ordinary ones as many are used as `default_vocab_size` has room for.
"""

import msgspec
from msgspec import Struct

from tune_checkpoint.errors import CorruptFileError
from tune_checkpoint.mapped import MappedFile
from tune_checkpoint.tokenizers.byte_level import ByteTokens, byte_level_parts
from tune_checkpoint.tokenizers.tiktoken import MAX_BYTES, decode_token
from tune_checkpoint.tokenizers.tokenizer_json import TokenizerParts

MAX_SPECIAL = 10_000
_ROLES = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "<pad>"}
_DEFAULT_SPECIAL = (
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
)
"""The special tokens of files that do not name them."""


class _Token(Struct):
    rank: int
    token_bytes: str


class _Special(Struct):
    rank: int
    token_str: str


class _Config(Struct):
    pattern: str
    default_vocab_size: int
    default_num_special_tokens: int


class _Tekken(Struct):
    config: _Config
    vocab: list[_Token]
    special_tokens: list[_Special] | None = None


def is_tekken(file: MappedFile) -> bool:
    """Whether a file, if it is not absurdly long, is a JSON object with the words of tekken.json."""
    if file.size > MAX_BYTES or bytes(file.view[:1]) != b"{":
        return False
    text = bytes(file.view)
    return b'"default_num_special_tokens"' in text and b'"vocab"' in text


def tekken_parts(file: MappedFile) -> TokenizerParts:
    """The tokenizer of a file that `is_tekken`.

    Raises:
        CorruptFileError: the file is not JSON, lacks something, or contradicts itself.
    """
    try:
        content = msgspec.json.decode(file.view, type=_Tekken)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptFileError(f"{file.path}: not a tekken.json that can be read: {error}") from error
    special = _special_tokens(file, content)
    size = content.config.default_vocab_size
    num_tokens = size - len(special)
    if not 0 < num_tokens <= len(content.vocab):
        raise CorruptFileError(
            f"{file.path}: default_vocab_size {size} with {len(special)} special tokens leaves {num_tokens} "
            f"ordinary ones, and there are {len(content.vocab)}"
        )
    tokens: list[bytes] = []
    for rank, token in enumerate(content.vocab[:num_tokens]):
        if token.rank != rank:
            raise CorruptFileError(f"{file.path}: vocab[{rank}] has rank {token.rank}; ranks go in order")
        tokens.append(decode_token(token.token_bytes, f"{file.path}: vocab[{rank}]"))
    roles = {role: token for role, token in _ROLES.items() if token in special}
    named = dict(enumerate(special))
    return byte_level_parts(file.path, ByteTokens(tokens, len(special), named, roles, content.config.pattern))


def _special_tokens(file: MappedFile, content: _Tekken) -> list[str]:
    """All special tokens in the order of their ids; those that have no name are numbered."""
    count = content.config.default_num_special_tokens
    entries = content.special_tokens
    named = list(_DEFAULT_SPECIAL) if entries is None else [entry.token_str for entry in entries]
    if not len(named) <= count <= MAX_SPECIAL:
        raise CorruptFileError(
            f"{file.path}: default_num_special_tokens is {count}; at least the {len(named)} that have a name "
            f"and at most {MAX_SPECIAL} are possible"
        )
    for index, entry in enumerate(entries or []):
        if entry.rank != index:
            raise CorruptFileError(
                f"{file.path}: special_tokens[{index}] has rank {entry.rank}; ranks go in order"
            )
    return [*named, *(f"<SPECIAL_{index}>" for index in range(len(named), count))]
