"""The small files beside Meta's and Mistral's weights, and what Hugging Face has in their place."""

from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from tune_checkpoint.companions import LEGAL
from tune_checkpoint.errors import CheckpointError, UnsupportedCheckpointError
from tune_checkpoint.mapped import MappedFile
from tune_checkpoint.meta.config import EndTokens
from tune_checkpoint.meta.generations import Generation
from tune_checkpoint.plan import SideFile
from tune_checkpoint.planning import copied_file
from tune_checkpoint.tokenizers.files import Kind, detect_tokenizer, tokenizer_files_from
from tune_checkpoint.tokenizers.sentencepiece_reader import read_sentencepiece

TOKENIZER = "tokenizer.model"
MAX_LEGAL_BYTES = 1_000_000


class Vocabulary(Struct, frozen=True):
    """A tokenizer's file, and what it is."""

    path: Path
    kind: Kind | None


def find_vocabulary(folder: Path, vocab_size: int) -> Vocabulary | None:
    """The tokenizer of the weights in a folder.

    Mistral's may have a version at the end of its name, or be a tekken.json. That of Llama 1 and 2 stands one
    folder up, where the sizes of the model share it; there it must have exactly the tokens of the embedding.
    """
    found = [
        folder / TOKENIZER,
        *sorted(folder.glob(f"{TOKENIZER}.v*"), reverse=True),
        folder / "tekken.json",
    ]
    path = next((path for path in found if path.is_file()), None)
    if path is not None:
        return Vocabulary(path, detect_tokenizer(path))
    above = folder.parent / TOKENIZER
    return Vocabulary(above, "sentencepiece") if _num_pieces(above) == vocab_size else None


def tokenizer_companions(
    vocabulary: Vocabulary | None, generation: Generation | None, max_length: int, vocab_size: int
) -> tuple[list[SideFile], EndTokens, list[str]]:
    """The tokenizer's files, the tokens that the configuration names, and warnings.

    Args:
        vocabulary: what `find_vocabulary` found.
        generation: of Llama; None of Mistral.
        max_length: tokens that the model takes.
        vocab_size: rows of its embedding.

    Raises:
        CorruptFileError: the tokenizer's file breaks its format, or has more tokens than the embedding rows.
    """
    if vocabulary is None:
        warning = (
            f"tokenizer.json: no {TOKENIZER} beside the weights; copy the original model's tokenizer files"
        )
        return [], _assumed_tokens(generation), [warning]
    names = "llama3" if generation == "3" else "llama3.1"
    try:
        made = tokenizer_files_from(
            vocabulary.path, max_length=max_length, generation=names, vocab_size=vocab_size
        )
    except UnsupportedCheckpointError as error:
        return [], _assumed_tokens(generation), [f"tokenizer.json: {error}"]
    files = list(made.files)
    if vocabulary.kind != "tekken":
        # Programs read it in place of tokenizer.json, and it is the way back to Meta's format.
        files.append(replace(copied_file(vocabulary.path), name=TOKENIZER))
    tokens = EndTokens(made.ids.get("bos"), made.ids.get("eos"), made.end_ids)
    return files, tokens, list(made.warnings)


def legal_files(folder: Path) -> list[SideFile]:
    """The licence and what belongs to it."""
    found = [folder / name for name in LEGAL]
    return [copied_file(path) for path in found if path.is_file() and path.stat().st_size <= MAX_LEGAL_BYTES]


def _num_pieces(path: Path) -> int | None:
    """Tokens of a SentencePiece model; None if there is none that can be read."""
    try:
        return len(read_sentencepiece(MappedFile(path)).pieces)
    except CheckpointError:
        return None


def _assumed_tokens(generation: Generation | None) -> EndTokens:
    """Where there is no tokenizer: the ids that all published models of a generation have."""
    if generation in ("3", "3.1", "3.2"):
        return EndTokens(128_000, 128_001, (128_001,))
    return EndTokens(1, 2, (2,))
