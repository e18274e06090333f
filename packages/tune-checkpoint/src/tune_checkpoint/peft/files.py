"""The small files of a merged model: those of the base, with the adapter's tokenizer if it brings one."""

import json
from pathlib import Path
from typing import Any, cast

from tune_checkpoint.companions import (
    CHAT_TEMPLATES,
    CONFIG,
    TOKENIZER_CONFIG,
    is_of_tokenizer,
    is_vocabulary,
)
from tune_checkpoint.errors import CorruptFileError
from tune_checkpoint.plan import Plan, SideFile
from tune_checkpoint.planning import MAX_SIDE_BYTES, added_ids, copied_file, is_object, json_file
from tune_checkpoint.tokenizers.missing import missing_tokenizer


def base_config(plan: Plan) -> dict[str, Any]:
    """`config.json` of a plan, or nothing where there is none."""
    for file in plan.files:
        if file.name == CONFIG:
            return json.loads(file.content)
    return {}


def merged_files(
    plan: Plan, folder: Path, changes: dict[str, object], num_rows: int | None
) -> tuple[tuple[SideFile, ...], tuple[str, ...]]:
    """The files beside the weights, and warnings.

    An adapter that brings a vocabulary brings a whole tokenizer, whose `tokenizer.json` is made if it lacks:
    no file of the base's stays beside it. One that brings none may have a chat template of its own.

    Args:
        plan: of the base.
        folder: of the adapter.
        changes: what config.json is to say otherwise.
        num_rows: of the embedding; more tokens have no place in it.
    """
    files = {file.name: file for file in plan.files}
    if changes and CONFIG in files:
        files[CONFIG] = json_file(CONFIG, _changed(base_config(plan), changes))
    small = sorted(path for path in folder.iterdir() if is_of_tokenizer(path.name) and _is_small_file(path))
    brought = {path.name: copied_file(path) for path in small}
    if not any(is_vocabulary(name) for name in brought):
        templates = {name: file for name, file in brought.items() if name in CHAT_TEMPLATES}
        return tuple((files | templates).values()), _without(plan, "chat_template" if templates else ())
    made, lacking = missing_tokenizer(folder, [*brought], _without_rows(base_config(plan)))
    brought |= {file.name: file for file in made}
    num_tokens = _num_tokens(brought)
    if num_rows is not None and num_tokens > num_rows:
        warning = (
            f"tokenizer.json: the adapter's has {num_tokens} tokens, and the embedding {num_rows} rows; "
            "that of the base was kept"
        )
        return tuple(files.values()), (*plan.warnings, warning)
    kept = {name: file for name, file in files.items() if not is_of_tokenizer(name)}
    is_settled = _has_template(brought) or any(text.startswith("chat_template") for text in lacking)
    settled = ("tokenizer.json: ", "chat_template") if is_settled else "tokenizer.json: "
    return tuple((kept | brought).values()), (*_without(plan, settled), *lacking)


def _without_rows(config: dict[str, Any]) -> dict[str, Any]:
    """A config that does not limit the number of tokens, which is for the merged embedding to do."""
    return {key: value for key, value in config.items() if key not in ("vocab_size", "text_config")}


def _without(plan: Plan, starts: str | tuple[str, ...]) -> tuple[str, ...]:
    """The warnings of a plan, but for those that begin so."""
    return tuple(warning for warning in plan.warnings if not warning.startswith(starts))


def _has_template(files: dict[str, SideFile]) -> bool:
    described = files.get(TOKENIZER_CONFIG)
    within = described is not None and "chat_template" in _read_json(described)
    return within or not CHAT_TEMPLATES.isdisjoint(files)


def _changed(config: dict[str, Any], changes: dict[str, object]) -> dict[str, Any]:
    """A config with other values, also where a part of it is the language model's own."""
    text = config.get("text_config")
    if not is_object(text):
        return config | changes
    inner = {key: value for key, value in changes.items() if key in text}
    outer = {key: value for key, value in changes.items() if key in config or key not in text}
    return config | outer | {"text_config": text | inner}


def _is_small_file(path: Path) -> bool:
    return path.is_file() and path.stat().st_size <= MAX_SIDE_BYTES


def _num_tokens(files: dict[str, SideFile]) -> int:
    """One more than the highest id that a tokenizer's JSON files name."""
    read = {name: _read_json(file) for name, file in files.items() if name.endswith(".json")}
    tokenizer = read.get("tokenizer.json", {})
    model = tokenizer.get("model")
    vocabulary: Any = model.get("vocab") if is_object(model) else None
    ids: list[Any] = [len(_items(vocabulary)) - 1]
    for by_token in (vocabulary, read.get("vocab.json"), read.get("added_tokens.json")):
        ids += by_token.values() if is_object(by_token) else []
    ids += [token.get("id") for token in _items(tokenizer.get("added_tokens")) if is_object(token)]
    ids += added_ids(read.get(TOKENIZER_CONFIG, {}))
    return max((number for number in ids if isinstance(number, int)), default=-1) + 1


def _items(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []


def _read_json(file: SideFile) -> dict[str, Any]:
    try:
        value: Any = json.loads(file.content)
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"{file.path or file.name}: not valid JSON: {error}") from error
    return value if is_object(value) else {}
