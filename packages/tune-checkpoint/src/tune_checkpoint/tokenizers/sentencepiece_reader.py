"""A SentencePiece BPE model: its pieces, and how it prepares text.

Source: sentencepiece_model.proto of google/sentencepiece (`ModelProto`, `TrainerSpec`, `NormalizerSpec`) for
the fields, and model_interface.cc for what a sound model is.
"""

from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any

from msgspec import Struct

from tune_checkpoint.errors import CorruptFileError, UnsupportedCheckpointError
from tune_checkpoint.mapped import MappedFile
from tune_checkpoint.tokenizers.bpe import MAX_TOKEN_LENGTH
from tune_checkpoint.tokenizers.protobuf import LENGTH, Field, Message

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
BPE = 2
MODEL_TYPES = {1: "UNIGRAM", BPE: "BPE", 3: "WORD", 4: "CHAR"}
MAX_BYTES = 100_000_000
"""The largest known model has 5 MB."""

_PIECE, _TRAINER, _NORMALIZER = 1, 2, 3
_Fields = dict[int, tuple[str, Callable[[Message, Field, str], Any]]]
_PIECE_FIELDS: _Fields = {
    1: ("piece", Message.text),
    2: ("score", Message.float32),
    3: ("type", Message.integer),
}
_TRAINER_FIELDS: _Fields = {
    3: ("model_type", Message.integer),
    24: ("treat_whitespace_as_suffix", Message.integer),
    35: ("byte_fallback", Message.integer),
    46: ("bos_piece", Message.text),
    47: ("eos_piece", Message.text),
    48: ("pad_piece", Message.text),
}
_NORMALIZER_FIELDS: _Fields = {
    2: ("precompiled_charsmap", Message.octets),
    3: ("add_dummy_prefix", Message.integer),
    4: ("remove_extra_whitespaces", Message.integer),
    5: ("escape_whitespaces", Message.integer),
}
"""Number -> name and how it is read."""


class Piece(Struct):
    """A token, with the defaults of the format."""

    piece: str = ""
    """A space stands there as U+2581."""
    score: float = 0.0
    type: int = NORMAL


class TrainerSpec(Struct):
    """What of the training matters to encoding, with the defaults of the format."""

    model_type: int = 1
    treat_whitespace_as_suffix: int = 0
    byte_fallback: int = 0
    """Characters that the vocabulary lacks become tokens of their bytes."""
    bos_piece: str = "<s>"
    eos_piece: str = "</s>"
    pad_piece: str = "<pad>"


class NormalizerSpec(Struct):
    """How a text is prepared, with the defaults of the format."""

    precompiled_charsmap: bytes = b""
    """What characters are replaced by, compiled; empty for none."""
    add_dummy_prefix: int = 1
    """A space is put before the text."""
    remove_extra_whitespaces: int = 1
    """Spaces around the text are dropped, and several in a row become one."""
    escape_whitespaces: int = 1
    """Spaces become U+2581."""


class SentencePieceModel(Struct, frozen=True):
    """What the file says, checked."""

    path: Path
    pieces: list[Piece]
    trainer: TrainerSpec
    normalizer: NormalizerSpec

    @property
    def ids(self) -> dict[str, int]:
        """The ids of unk, bos, eos and pad, as far as there are such pieces."""
        named = {
            self.trainer.bos_piece: "bos",
            self.trainer.eos_piece: "eos",
            self.trainer.pad_piece: "pad",
        }
        ids: dict[str, int] = {}
        for index, piece in enumerate(self.pieces):
            if piece.type == UNKNOWN:
                ids["unk"] = index
            elif piece.type == CONTROL and piece.piece in named:
                ids[named[piece.piece]] = index
        return ids


def read_sentencepiece(file: MappedFile) -> SentencePieceModel:
    """Read a SentencePiece model.

    Raises:
        CorruptFileError: the file breaks its format, or its pieces contradict each other.
        UnsupportedCheckpointError: it is of a kind that cannot be converted.
    """
    if file.size > MAX_BYTES:
        raise CorruptFileError(f"{file.path}: {file.size} bytes; no SentencePiece model has over {MAX_BYTES}")
    message = Message(file.path, file.view)
    model = SentencePieceModel(file.path, [], TrainerSpec(), NormalizerSpec())
    for field in message.fields():
        if field.number == _PIECE:
            model.pieces.append(_read_piece(message.message(field, "a piece"), field.start))
        elif field.number == _TRAINER:
            _fill(message.message(field, "trainer_spec"), model.trainer, _TRAINER_FIELDS)
        elif field.number == _NORMALIZER:
            _fill(message.message(field, "normalizer_spec"), model.normalizer, _NORMALIZER_FIELDS)
    _check_supported(model)
    _check_pieces(model)
    return model


def is_sentencepiece(file: MappedFile) -> bool:
    """Whether a file begins as a SentencePiece model does: with a piece, and in it the piece's text."""
    message = Message(file.path, file.view)
    try:
        field = next(message.fields(), None)
        if field is None or (field.number, field.kind) != (_PIECE, LENGTH):
            return False
        inner = next(message.message(field, "a piece").fields(), None)
    except CorruptFileError:
        return False
    return inner is not None and (inner.number, inner.kind) == (1, LENGTH)


def _fill(message: Message, target: Struct, known: _Fields) -> None:
    """Set the attributes for the fields that matter; a field that stands there again overrides."""
    for field in message.fields():
        if field.number in known:
            name, read = known[field.number]
            setattr(target, name, read(message, field, name))


def _read_piece(message: Message, offset: int) -> Piece:
    piece = Piece()
    _fill(message, piece, _PIECE_FIELDS)
    where = f"{message.path}: the piece {piece.piece[:40]!r} at byte {offset}"
    if not 0 < len(piece.piece) <= MAX_TOKEN_LENGTH:
        raise CorruptFileError(
            f"{where} has {len(piece.piece)} characters; 1 to {MAX_TOKEN_LENGTH} are possible"
        )
    if not isfinite(piece.score):
        raise CorruptFileError(f"{where} has the score {piece.score}, which orders nothing")
    if not NORMAL <= piece.type <= BYTE:
        raise CorruptFileError(f"{where} is of the unknown type {piece.type}")
    return piece


def _check_supported(model: SentencePieceModel) -> None:
    reason = None
    if model.trainer.model_type != BPE:
        kind = MODEL_TYPES.get(model.trainer.model_type, model.trainer.model_type)
        reason = f"model_type {kind}; BPE can be converted, whose token ids come out equal"
    elif model.trainer.treat_whitespace_as_suffix:
        reason = "words that end, not begin, with their space (treat_whitespace_as_suffix)"
    elif not model.normalizer.escape_whitespaces:
        reason = "spaces that are left as they are (escape_whitespaces is false)"
    elif any(piece.type == UNUSED for piece in model.pieces):
        reason = "pieces that are switched off (type UNUSED)"
    if reason:
        raise UnsupportedCheckpointError(f"{model.path}: a SentencePiece model with {reason}")


def _check_pieces(model: SentencePieceModel) -> None:
    """What SentencePiece itself demands before it loads a model."""
    seen: set[str] = set()
    for piece in model.pieces:
        if piece.piece in seen:
            raise CorruptFileError(f"{model.path}: the piece {piece.piece!r} stands there twice")
        seen.add(piece.piece)
    if sum(piece.type == UNKNOWN for piece in model.pieces) != 1:
        raise CorruptFileError(f"{model.path}: there is to be one piece for what is unknown (type UNKNOWN)")
    found = {piece.piece for piece in model.pieces if piece.type == BYTE}
    expected = {f"<0x{byte:02X}>" for byte in range(256)} if model.trainer.byte_fallback else set[str]()
    if found != expected:
        raise CorruptFileError(
            f"{model.path}: {len(found)} pieces stand for bytes; with byte_fallback there are to be "
            "<0x00> to <0xFF>, without it none"
        )
