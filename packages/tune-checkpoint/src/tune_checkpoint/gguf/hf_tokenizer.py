"""What `tokenizer.json` and the files beside it say, as far as GGUF has a place for it.

Source: how huggingface/tokenizers serialises `Tokenizer`, `BPE` and `AddedToken`; how transformers saves a
`PreTrainedTokenizer` and a `GenerationConfig`.
"""

from collections.abc import Mapping
from typing import Any, TypeVar, cast

import msgspec
from msgspec import Raw, Struct

from tune_checkpoint.errors import CorruptFileError
from tune_checkpoint.planning import is_object

T = TypeVar("T")
Step = dict[str, Any]
"""Part of what is done to a text, as tokenizer.json spells it."""


class Added(Struct, frozen=True):
    """A token that is found in a text as a whole."""

    id: int
    content: str
    special: bool = False


class Bpe(Struct, frozen=True):
    """The model: which pieces become one, the first that applies before the others."""

    vocab: dict[str, int]
    merges: list[str | tuple[str, str]]
    unk_token: str | None = None
    byte_fallback: bool = False

    def pairs(self) -> list[tuple[str, str]]:
        """The merges, whichever way they are spelled."""
        return [_halves(merge) if isinstance(merge, str) else merge for merge in self.merges]


class TokenizerJson(Struct, frozen=True):
    """The parts of a `tokenizer.json`."""

    model: Raw
    added_tokens: list[Added] = []
    normalizer: Step | None = None
    pre_tokenizer: Step | None = None
    post_processor: Step | None = None


class TokenizerConfig(Struct, frozen=True):
    """The fields of `tokenizer_config.json` that matter here, but for the special tokens."""

    add_bos_token: bool | None = None
    add_eos_token: bool | None = None
    chat_template: str | list[dict[str, Any]] | None = None


class TokenIds(Struct, frozen=True):
    """The token ids in `config.json` or `generation_config.json`."""

    bos_token_id: int | list[int] | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | list[int] | None = None

    def of(self, name: str) -> list[int]:
        """The ids of bos, eos or pad, the first before the others."""
        ids: int | list[int] | None = getattr(self, f"{name}_token_id", None)
        return [] if ids is None else [ids] if isinstance(ids, int) else ids


class HfTokenizer(Struct, frozen=True):
    """A tokenizer, from all files that have something of it."""

    where: str
    """The source, for messages."""
    kind: str
    """Of its model: `BPE`, `Unigram`, ..."""
    bpe: Bpe | None
    """None if the model is none."""
    added_tokens: list[Added]
    normalizer: list[Step]
    pre_tokenizer: list[Step]
    post_processor: list[Step]
    config: TokenizerConfig
    special: dict[str, str]
    """bos, eos, unk and pad -> the token, those that are named."""
    ids: tuple[TokenIds, ...]
    """Of `generation_config.json` and of `config.json`."""
    chat_template: str | None

    def ends(self) -> tuple[bool, bool]:
        """Whether a text begins with bos and ends with eos."""
        bos, eos = self.special.get("bos"), self.special.get("eos")
        for step in self.post_processor:
            single: Any = step.get("single")
            if step.get("type") == "TemplateProcessing" and isinstance(single, list) and single:
                first, last = _special_token(cast("Any", single[0])), _special_token(cast("Any", single[-1]))
                return first is not None and first == bos, last is not None and last == eos
        return bool(self.config.add_bos_token and bos), bool(self.config.add_eos_token and eos)


READ = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "config.json",
    "chat_template.jinja",
)
"""Names of the files that say something about a tokenizer."""


def read_hf_tokenizer(files: Mapping[str, bytes], where: str) -> HfTokenizer:
    """Read a tokenizer that has a `tokenizer.json`.

    Args:
        files: name -> content.
        where: names the source in the error.

    Raises:
        CorruptFileError: a file is not what its name says.
    """

    def read(name: str, kind: type[T]) -> T:
        return _decoded(files.get(name, b"{}"), kind, f"{where}: {name}")

    parts = read("tokenizer.json", TokenizerJson)
    kind = _decoded(parts.model, _Typed, f"{where}: tokenizer.json").type
    config = read("tokenizer_config.json", TokenizerConfig)
    return HfTokenizer(
        where=where,
        kind=kind,
        bpe=_decoded(parts.model, Bpe, f"{where}: tokenizer.json") if kind == "BPE" else None,
        added_tokens=parts.added_tokens,
        normalizer=_steps(parts.normalizer, "normalizers"),
        pre_tokenizer=_steps(parts.pre_tokenizer, "pretokenizers"),
        post_processor=_steps(parts.post_processor, "processors"),
        config=config,
        special=_special_tokens(read("special_tokens_map.json", Step), read("tokenizer_config.json", Step)),
        ids=(read("generation_config.json", TokenIds), read("config.json", TokenIds)),
        chat_template=_chat_template(files, config),
    )


class _Typed(Struct):
    type: str = "BPE"  # old files do not say so


def _decoded(content: bytes | Raw, kind: type[T], where: str) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptFileError(f"{where}: {error}") from error


def _special_tokens(*sources: Step) -> dict[str, str]:
    found: dict[str, str] = {}
    for source in sources:
        for name in ("bos", "eos", "unk", "pad"):
            value = source.get(f"{name}_token")
            token = value.get("content") if is_object(value) else value
            if isinstance(token, str):
                found[name] = token
    return found


def _chat_template(files: Mapping[str, bytes], config: TokenizerConfig) -> str | None:
    """The Jinja source; of several the default one."""
    if "chat_template.jinja" in files:
        return files["chat_template.jinja"].decode(errors="replace")
    if isinstance(config.chat_template, list):
        named = {str(entry.get("name")): entry.get("template") for entry in config.chat_template}
        template = named.get("default")
        return template if isinstance(template, str) else None
    return config.chat_template


def _halves(line: str) -> tuple[str, str]:
    left, _, right = line.partition(" ")
    return left, right


def _steps(part: Step | None, key: str) -> list[Step]:
    """The steps of a part, whether it is one or a sequence of them."""
    if part is None:
        return []
    inner: Any = part.get(key)
    if part.get("type") != "Sequence" or not isinstance(inner, list):
        return [part]
    steps = cast("list[Any]", inner)
    return [leaf for step in steps if is_object(step) for leaf in _steps(step, key)]


def _special_token(entry: Any) -> str | None:
    token = entry.get("SpecialToken") if is_object(entry) else None
    name = token.get("id") if is_object(token) else None
    return name if isinstance(name, str) else None
