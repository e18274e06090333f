"""Byte-level tokens with ranks, and special tokens beside them, as the parts of `tokenizer.json`."""

from pathlib import Path

from msgspec import Struct

from tune_checkpoint.errors import CorruptFileError
from tune_checkpoint.tokenizers.bpe import bpe_model, byte_characters, merges_from_ranks
from tune_checkpoint.tokenizers.splits import byte_level_split
from tune_checkpoint.tokenizers.tokenizer_json import BYTE_LEVEL_DECODER, AddedToken, TokenizerParts


class ByteTokens(Struct, frozen=True):
    """A vocabulary as tiktoken has it."""

    tokens: list[bytes]
    """In the order of their ranks."""
    first_id: int
    """The id of rank 0; the others follow."""
    special: dict[int, str]
    """Id -> special token."""
    roles: dict[str, str]
    """bos, eos, unk and pad -> special token, those that there are."""
    split: str
    """A regular expression whose matches are merged apart."""


def byte_level_parts(path: Path, content: ByteTokens) -> TokenizerParts:
    """The tokenizer that encodes as tiktoken does, and puts bos before a text if there is one.

    Args:
        path: the file, for messages.
        content: what it holds.

    Raises:
        CorruptFileError: a token stands there twice, or a byte has none.
    """
    characters = "".join(character for _, character in sorted(byte_characters().items()))
    # Latin-1 makes of each byte the character of its number, which translate() takes as an index.
    spelled = [token.decode("latin-1").translate(characters) for token in content.tokens]
    ranks = {token: rank for rank, token in enumerate(spelled)}
    ids = {token: index for index, token in content.special.items()}
    if len(ranks) != len(spelled):
        twice = next(rank for rank, token in enumerate(spelled) if ranks[token] != rank)
        raise CorruptFileError(f"{path}: the token of rank {twice} stands there twice")
    absent = next((byte for byte, character in enumerate(characters) if character not in ranks), None)
    if absent is not None:
        raise CorruptFileError(
            f"{path}: no token stands for the byte 0x{absent:02X}; a vocabulary has one for each of the 256"
        )
    for index, token in content.special.items():
        if not token or ids[token] != index or token in ranks:
            raise CorruptFileError(f"{path}: the special token {token!r} is empty or another token too")
    merges = merges_from_ranks(ranks)
    vocab = ids | {token: content.first_id + rank for token, rank in ranks.items()}
    return TokenizerParts(
        model=bpe_model(vocab, merges, ignore_merges=True),
        pre_tokenizer=byte_level_split(content.split),
        decoder=BYTE_LEVEL_DECODER,
        added_tokens=[AddedToken(index, token, special=True) for token, index in ids.items()],
        special=content.roles,
        ids={role: ids[token] for role, token in content.roles.items()},
        add_bos="bos" in content.roles,
    )
