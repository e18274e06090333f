"""The tokenizer files of a Hugging Face folder, from whichever vocabulary lies beside a checkpoint."""

from pathlib import Path
from typing import Literal

from msgspec import Struct

from tune_checkpoint.errors import CorruptFileError, UnsupportedCheckpointError
from tune_checkpoint.mapped import MappedFile
from tune_checkpoint.plan import SideFile
from tune_checkpoint.tokenizers.sentencepiece import sentencepiece_parts
from tune_checkpoint.tokenizers.sentencepiece_reader import is_sentencepiece, read_sentencepiece
from tune_checkpoint.tokenizers.tekken import is_tekken, tekken_parts
from tune_checkpoint.tokenizers.tiktoken import Generation, is_tiktoken, llama3_parts, read_tiktoken
from tune_checkpoint.tokenizers.tokenizer_json import TokenizerParts, tokenizer_files

Kind = Literal["sentencepiece", "tiktoken", "tekken"]


class TokenizerFiles(Struct, frozen=True):
    """What was made, and what a model's config needs to know of it."""

    files: list[SideFile]
    """`tokenizer.json`, `tokenizer_config.json`, and `chat_template.jinja` if one was given."""
    warnings: list[str]
    """What is missing or doubtful, one sentence each."""
    ids: dict[str, int]
    """bos, eos, unk and pad, those that there are."""
    end_ids: list[int]
    """Every token that ends a generation, eos first."""
    vocab_size: int
    """Tokens, special ones included: the embedding has at least as many rows."""


def detect_tokenizer(path: Path) -> Kind | None:
    """The kind of a vocabulary file, by its contents; None if it is none of those that can be read.

    Raises:
        CheckpointNotFoundError: it cannot be read at all.
    """
    return _detect(MappedFile(path))


def tokenizer_files_from(
    path: Path,
    *,
    max_length: int | None = None,
    generation: Generation | None = None,
    chat_template: str | None = None,
    vocab_size: int | None = None,
) -> TokenizerFiles:
    """Make a Hugging Face tokenizer of a `tokenizer.model` or `tekken.json`, with equal token ids.

    Args:
        path: a SentencePiece BPE model, Llama 3's table of tokens and ranks, or Mistral's tekken.json.
        max_length: tokens that the model takes at most; None if that is not known.
        generation: names of Llama 3's special tokens, which its file does not hold; None takes those of 3.1.
        chat_template: Jinja source, where the caller has it; none of these files holds one.
        vocab_size: rows of the model's embedding, to be held against the number of tokens.

    Raises:
        CheckpointNotFoundError: the file cannot be read.
        CorruptFileError: it breaks its format, or has more tokens than the embedding has rows.
        UnsupportedCheckpointError: it is of another kind.
    """
    file = MappedFile(path)
    kind = _detect(file)
    parts, warnings = _parts(file, kind, generation or "llama3.1")
    num_tokens = len(parts.model["vocab"])
    if vocab_size is not None and num_tokens > vocab_size:
        raise CorruptFileError(
            f"{path}: {num_tokens} tokens, but the embedding has {vocab_size} rows; "
            "weights and tokenizer are not of one model"
        )
    if chat_template is None:
        warnings.append(_without_template(path, kind))
    return TokenizerFiles(
        files=tokenizer_files(parts, max_length, chat_template),
        warnings=warnings,
        ids=parts.ids,
        end_ids=parts.end_ids,
        vocab_size=num_tokens,
    )


def _detect(file: MappedFile) -> Kind | None:
    if is_sentencepiece(file):
        return "sentencepiece"
    if is_tiktoken(file):
        return "tiktoken"
    return "tekken" if is_tekken(file) else None


def _parts(file: MappedFile, kind: Kind | None, generation: Generation) -> tuple[TokenizerParts, list[str]]:
    match kind:
        case "sentencepiece":
            return sentencepiece_parts(read_sentencepiece(file))
        case "tiktoken":
            return llama3_parts(file.path, read_tiktoken(file), generation)
        case "tekken":
            return tekken_parts(file), []
        case None:
            raise UnsupportedCheckpointError(
                f"{file.path}: neither a SentencePiece model nor Llama 3's table of tokens and ranks nor "
                "Mistral's tekken.json; copy the tokenizer.json from the model's page instead"
            )


def _without_template(path: Path, kind: Kind | None) -> str:
    if kind == "tiktoken":
        return (
            f"chat_template.jinja: {path.name} does not tell whether the model was tuned to chat; none was "
            "written, and <|end_of_text|> is eos; an Instruct model needs the chat template from its page"
        )
    return (
        f"chat_template.jinja: {path.name} holds no chat template; a model that was tuned to chat needs the "
        "one from its page"
    )
