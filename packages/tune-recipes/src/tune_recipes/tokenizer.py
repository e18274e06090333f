"""Text to token ids and back, as the checkpoint's `tokenizer.json` says; and text from ids still coming.

What stands beside `tokenizer.json` only names tokens: which one begins a text, which ones end it, which one
pads.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Encoding
from tokenizers import Tokenizer as Backend

from tune_recipes.errors import UserError

# Other vocabularies that a model folder may carry instead, and what they are.
OTHER_VOCABULARIES = {
    "tokenizer.model": "a SentencePiece or tiktoken model",
    "tekken.json": "a Mistral vocabulary",
    "vocab.json": "a vocabulary without its merge and split rules",
    "vocab.txt": "a WordPiece vocabulary",
}


class Tokenizer:
    """The tokenizer of a model folder; its ids equal those of transformers' `AutoTokenizer`.

    Attributes:
        folder: The model folder.
        special_tokens: Name to text (`eos_token` to `</s>`), as chat templates see them.
        control_tokens: The texts of all special tokens, named or not.
        bos_id: The token that begins a text; None when the tokenizer has none.
        eos_id: The token that ends a text in training data; None when the tokenizer has none.
        eos_ids: All tokens that end generation, `eos_id` first.
        pad_id: The token that fills a batch: the padding token, else `eos_id`, else 0. Padding is never a
            target.
        vocab_size: Rows that an embedding needs: the largest id plus one.
        chat_template: The Jinja source of the chat template; None when the folder has none.
    """

    def __init__(self, folder: Path | str):
        """Read a model folder.

        Args:
            folder: The model folder; `tokenizer.json` must stand in it.

        Raises:
            UserError: `tokenizer.json` is missing or unreadable, or a file beside it is.
        """
        self.folder = Path(folder)
        config = _read_json(self.folder / "tokenizer_config.json")
        if "added_tokens_decoder" not in config:  # newer files repeat there what the older file says
            config |= _read_json(self.folder / "special_tokens_map.json")
        self.special_tokens = {
            name: text
            for name, token in config.items()
            if name.endswith("_token") and (text := _token_text(token)) is not None
        }
        self._backend = _load_backend(self.folder)
        _add_tokens(self._backend, config, self.special_tokens, self.folder)
        self._prefix, self._suffix = _take_post_processor(self._backend)

        self.control_tokens = frozenset(
            token.content for token in self._backend.get_added_tokens_decoder().values() if token.special
        )
        self.vocab_size = 1 + max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1)
        generation = _read_json(self.folder / "generation_config.json")
        model = _read_json(self.folder / "config.json")
        self.bos_id = self._named_id("bos_token", config, generation, model)
        self.eos_id = self._named_id("eos_token", config, generation, model)
        stops = _ids(generation.get("eos_token_id")) or _ids(model.get("eos_token_id"))
        self.eos_ids = tuple(dict.fromkeys([*_ids(self.eos_id), *stops]))
        pad_id = self._named_id("pad_token", config, generation, model)
        self.pad_id = next((i for i in (pad_id, self.eos_id) if i is not None), 0)
        self.chat_template = _read_chat_template(self.folder, config)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Turn text into ids.

        Args:
            text: The text; the texts of special tokens in it become those tokens.
            add_special_tokens: Also put before and after it what the tokenizer puts there (often a bos
                token). False for a rendered chat, whose template writes its special tokens itself.

        Returns:
            Token ids.
        """
        ids = self._backend.encode(text, add_special_tokens=False).ids
        return [*self._prefix, *ids, *self._suffix] if add_special_tokens else ids

    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        """Turn many texts into ids on all cores, without special tokens around them.

        Args:
            texts: The texts.

        Returns:
            An encoding for each text; it knows which token covers which character (`char_to_token`).
        """
        return self._backend.encode_batch(list(texts), add_special_tokens=False)

    def surround(self, ids: list[int]) -> tuple[list[int], int]:
        """Put special tokens around ids, as `encode` does around a text.

        Args:
            ids: Token ids of one text.

        Returns:
            The ids with special tokens, and how many of them came before.
        """
        return [*self._prefix, *ids, *self._suffix], len(self._prefix)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Turn ids into text.

        Args:
            ids: Token ids.
            skip_special_tokens: Leave special tokens out.

        Returns:
            The text; bytes that are no UTF-8 become U+FFFD.
        """
        return self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def token_id(self, token: str) -> int | None:
        """Look a token up by its text; None when the vocabulary has no such token."""
        return self._backend.token_to_id(token)

    def _named_id(self, name: str, config: dict, *fallbacks: dict) -> int | None:
        if name in config:  # null there says that the model has none, whatever config.json says
            text = self.special_tokens.get(name)
            return None if text is None else self.token_id(text)
        for fallback in fallbacks:
            if ids := _ids(fallback.get(f"{name}_id")):
                return ids[0]
        return None


class StreamDecoder:
    """Text of token ids that come one at a time, in pieces that can be printed at once.

    A character whose bytes are spread over several tokens is held back until it is whole. The pieces, with
    the one from `finish`, add up to what `Tokenizer.decode` gives for all ids together (when their bytes are
    UTF-8).
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True):
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        # The tokens of the last printed piece, then those not printed yet. Decoding both and dropping what
        # was printed keeps the space before a word, which SentencePiece drops at the beginning of a text.
        self._printed: list[int] = []
        self._pending: list[int] = []

    def feed(self, token_id: int) -> str:
        """Take one more id.

        Args:
            token_id: The id.

        Returns:
            The text that is now certain; often empty.
        """
        self._pending.append(token_id)
        text = self._pending_text()
        if not text or text.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        self._printed, self._pending = self._pending, []
        return text

    def finish(self) -> str:
        """Return what was held back: broken characters, when the text ended in the middle of one."""
        text = self._pending_text()
        self._printed, self._pending = self._printed + self._pending, []
        return text

    def _pending_text(self) -> str:
        printed = self._decode(self._printed)
        return self._decode(self._printed + self._pending)[len(printed) :]

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=self._skip_special_tokens)


def _load_backend(folder: Path) -> Backend:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(_missing_message(folder))
    try:
        backend = Backend.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"{path}: not a tokenizer that can be read: {error}") from error
    # Saved by whoever prepared a batch last; here it would cut or pad texts silently.
    backend.no_truncation()
    backend.no_padding()
    return backend


def _missing_message(folder: Path) -> str:
    if not folder.is_dir():
        return (
            f"{folder}: no such folder; `model` names a folder with a model's config.json and tokenizer.json"
        )
    found = [f"{name} ({what})" for name, what in OTHER_VOCABULARIES.items() if (folder / name).is_file()]
    if not found:
        return f"{folder}: has no tokenizer.json; copy it from where the model came from"
    return (
        f"{folder}: has no tokenizer.json, only {', '.join(found)}; get it from the model's page, or "
        f"make it with transformers: AutoTokenizer.from_pretrained({str(folder)!r})"
        f".save_pretrained({str(folder)!r})"
    )


def _add_tokens(backend: Backend, config: dict, named: dict[str, str], folder: Path) -> None:
    """Add the tokens that only the files beside `tokenizer.json` name; ids go in transformers' order."""
    backend.add_tokens(_declared_tokens(config, folder))
    for token in [*named.values(), *_extra_tokens(config, folder)]:
        if token is not None and token not in _added_texts(backend):
            backend.add_special_tokens([AddedToken(token, special=True, normalized=False)])


def _declared_tokens(config: dict, folder: Path) -> list[AddedToken]:
    declared = config.get("added_tokens_decoder", {})
    try:
        by_id = sorted(declared.items(), key=lambda item: int(item[0]))
        return [AddedToken(**token) for _, token in by_id]
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder / 'tokenizer_config.json'}: added_tokens_decoder: expected an object of tokens by id, "
            f'such as {{"0": {{"content": "<s>", "special": true}}}}: {error}'
        ) from error


def _extra_tokens(config: dict, folder: Path) -> list[str | None]:
    for name in ("extra_special_tokens", "additional_special_tokens"):
        extra = config.get(name) or []
        if not isinstance(extra, list | dict):
            raise UserError(
                f"{folder}: {name} (in tokenizer_config.json or special_tokens_map.json): expected a list of "
                f"tokens, found {extra!r}"
            )
        if extra:
            return [_token_text(token) for token in (extra.values() if isinstance(extra, dict) else extra)]
    return []


def _added_texts(backend: Backend) -> set[str]:
    return {token.content for token in backend.get_added_tokens_decoder().values()}


def _take_post_processor(backend: Backend) -> tuple[list[int], list[int]]:
    """Take the post-processor away; return the ids that it puts before and after a text.

    A byte-level one also trims spaces off the character offsets of tokens, which would hide the tokens of
    spaces from whoever looks for the tokens of a passage.
    """
    encoding = backend.encode("a", add_special_tokens=True)
    special = encoding.special_tokens_mask
    first = special.index(0) if 0 in special else len(special)
    last = len(special) - special[::-1].index(0) if 0 in special else len(special)
    backend.post_processor = None  # pyright: ignore[reportAttributeAccessIssue]  # the stub has no None
    return encoding.ids[:first], encoding.ids[last:]


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{path}: not valid JSON: {error}; copy the file anew from where the model came from"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not an object")
    return content


def _token_text(token: object) -> str | None:
    """The text of a token in either dialect: a string, or an object with `content`."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _ids(value: object) -> list[int]:
    """Token ids in any dialect: a number, a list of them, null, or -1 for none."""
    values = value if isinstance(value, list) else [value]
    return [i for i in values if isinstance(i, int) and i >= 0]


def _read_chat_template(folder: Path, config: dict) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 text: {error}") from error
    template = config.get("chat_template")
    if isinstance(template, list):  # several by name; the others are for tools and retrieval
        try:
            template = {entry["name"]: entry["template"] for entry in template}.get("default")
        except (KeyError, TypeError):
            template = False
    if not isinstance(template, str | None):
        raise UserError(
            f"{folder / 'tokenizer_config.json'}: chat_template: expected a text, or a list of objects with "
            "`name` and `template`"
        )
    return template
