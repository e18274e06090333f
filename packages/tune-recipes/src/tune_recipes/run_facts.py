"""What a run folder tells of a training: method, base, data, settings, cost, losses. Imports no torch.

What is told may be published: a path is shown relative to where the run was started, or by its last part.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import msgspec
from msgspec import Struct

from tune_recipes import runs
from tune_recipes.base_model import BaseModel, cached_repository, read_base_model
from tune_recipes.catalog import BUILTIN_PREFIX, expand_home
from tune_recipes.options import as_text
from tune_recipes.yaml_file import read_yaml

# Told elsewhere, or without a bearing on what was learned.
_NOT_SETTINGS = re.compile(r"model|data\.path|output_dir|checkpoint\..*|logging\..*")


class RunFacts(Struct, frozen=True, kw_only=True):
    """What is known of a run. What nobody wrote down is None or empty."""

    id: str
    """Name of the run's folder."""
    label: str
    """Name of its config, or else of its recipe."""
    method: str
    """`full`, `scratch`, `lora`, `dora`, or the name of a recipe that does not ship with tune."""
    rank: int | None = None
    """Of the adapter."""
    alpha: float | None = None
    """Of the adapter."""
    base_model: BaseModel | None = None
    """What was trained; None where training began from scratch."""
    data_name: str | None = None
    """Name of the file of records."""
    data_format: str | None = None
    """What its records hold: `alpaca`, `chat`, `completion`."""
    dataset: str | None = None
    """Repository that the file is of, if it lies in the Hub's cache."""
    data_sha256: str | None = None
    """Fingerprint of the records."""
    num_records: int | None = None
    """How many there are."""
    settings: dict[str, str] = {}
    """Options that were given, by dotted name, as one would type them."""
    hardware: str | None = None
    """Accelerator or processor, and how many."""
    world_size: int = 1
    """Number of processes."""
    duration_s: float | None = None
    """From start to end; of a run that was taken up again, the time in its steps."""
    steps: int | None = None
    """Optimizer steps."""
    tokens: int | None = None
    """Tokens that went through the model, padding included."""
    target_tokens: int | None = None
    """Tokens that it learned to predict."""
    final_loss: float | None = None
    """Loss of the last step."""
    validation_loss: float | None = None
    """The last one measured."""
    versions: dict[str, str] = {}
    """Of Python and of the packages that decide the result."""
    git_commit: str | None = None
    """Commit of the folder that it was started in."""
    command: str | None = None
    """The command that started it, for a shell."""


class _Metrics(Struct):
    """A line of metrics.jsonl, or what the lines make together; a number that was none is null."""

    step: int | None = None
    loss: float | None = None
    validation_loss: float | None = None
    tokens: int | None = None
    target_tokens: int | None = None
    step_seconds: float | None = None


def run_facts(folder: Path) -> RunFacts:
    """Gather what a run folder tells.

    Raises:
        UserError: The folder is not a run folder, or a file in it is damaged.
    """
    info = runs.read_info(folder)
    values = read_yaml(folder / runs.CONFIG)[0] if (folder / runs.CONFIG).is_file() else {}
    data, lora = _group(values, "data"), _group(values, "lora")
    metrics = _metrics(folder / runs.METRICS)
    config = Path(info.config).stem if info.config else None
    return RunFacts(
        id=info.id,
        label=config or Path(info.recipe).stem,
        method=_method(info, values, lora),
        rank=lora.get("rank"),
        alpha=lora.get("alpha"),
        base_model=_base_model(info, values),
        data_name=_last_part(data["path"]) if "path" in data else None,
        data_format=data.get("format"),
        dataset=_dataset(data.get("path"), info.cwd),
        data_sha256=info.data.get("sha256"),
        num_records=info.data.get("records"),
        settings=_settings(folder, values, info.cwd),
        hardware=_hardware(info),
        world_size=info.world_size,
        duration_s=metrics.step_seconds if info.resumed else _seconds(info),
        steps=metrics.step,
        tokens=metrics.tokens,
        target_tokens=metrics.target_tokens,
        final_loss=metrics.loss if info.final_loss is None else info.final_loss,
        validation_loss=metrics.validation_loss,
        versions=info.versions,
        git_commit=info.git_commit,
        command=_command(info),
    )


def _group(values: dict[str, Any], name: str) -> dict[str, Any]:
    group: Any = values.get(name)
    return cast("dict[str, Any]", group) if isinstance(group, dict) else {}


def _method(info: runs.RunInfo, values: dict[str, Any], lora: dict[str, Any]) -> str:
    """Name the method by what the recipe has options for; a copied recipe keeps them, whatever its name."""
    if lora:
        return "dora" if lora.get("dora") is True or lora.get("use_dora") is True else "lora"
    if values.get("init") == "random":
        return "scratch"
    stem = Path(info.recipe).stem
    return "full" if stem == "full_finetune" or "init" in values else stem


def _base_model(info: runs.RunInfo, values: dict[str, Any]) -> BaseModel | None:
    path = values.get("model")
    if values.get("init") == "random" or not isinstance(path, str):
        return None
    if info.base_model is not None:
        return info.base_model
    # Of a run that noted nothing; a relative path begins where it was started.
    place = path if path.startswith(BUILTIN_PREFIX) else str(Path(info.cwd, expand_home(path)))
    return msgspec.structs.replace(read_base_model(place), path=path)


def _dataset(path: Any, cwd: str) -> str | None:
    if not isinstance(path, str):
        return None
    found = cached_repository(Path(cwd, path), "datasets")
    return found[0] if found else None


def _settings(folder: Path, values: dict[str, Any], cwd: str) -> dict[str, str]:
    """Return the options whose origin is not a default, with their values."""
    try:
        origins = msgspec.json.decode((folder / runs.ORIGINS).read_bytes(), type=dict[str, str])
    except (OSError, msgspec.DecodeError):
        return {}
    given = [name for name, origin in origins.items() if origin != "default"]
    found = {name: _value_at(values, name) for name in given if not _NOT_SETTINGS.fullmatch(name)}
    return {name: _typed(_public(value, cwd)) for name, value in found.items() if value is not None}


def _typed(value: Any) -> str:
    return value if isinstance(value, str) else as_text(value)


def _value_at(values: Any, name: str) -> Any:
    for part in name.split("."):
        values = cast("dict[str, Any]", values).get(part) if isinstance(values, dict) else None
    return values


def _hardware(info: runs.RunInfo) -> str | None:
    """Return one line: `2 x NVIDIA A100`, `AMD EPYC, 16 cores`."""
    hardware = info.hardware
    if accelerator := hardware.get("accelerator"):
        return f"{info.world_size} x {accelerator}" if info.world_size > 1 else str(accelerator)
    if info.device not in (None, "cpu"):
        return f"{info.world_size} x {info.device}" if info.world_size > 1 else info.device
    name = hardware.get("processor") or hardware.get("machine")
    cores = hardware.get("cores")
    return ", ".join([*([str(name)] if name else []), *([f"{cores} cores"] if cores else [])]) or None


def _seconds(info: runs.RunInfo) -> float | None:
    if info.end is None:
        return None
    try:
        return (datetime.fromisoformat(info.end) - datetime.fromisoformat(info.start)).total_seconds()
    except (ValueError, TypeError):
        return None


def _metrics(path: Path) -> _Metrics:
    """Return the last step and losses of metrics.jsonl, and the sums of its tokens and seconds."""
    whole = _Metrics()
    for line in _lines(path):
        whole.step = line.step if line.step is not None else whole.step
        whole.loss = line.loss
        whole.validation_loss = (
            line.validation_loss if line.validation_loss is not None else whole.validation_loss
        )
        whole.tokens = (whole.tokens or 0) + (line.tokens or 0)
        whole.target_tokens = (whole.target_tokens or 0) + (line.target_tokens or 0)
        whole.step_seconds = (whole.step_seconds or 0) + (line.step_seconds or 0)
    return whole


def _lines(path: Path) -> Iterator[_Metrics]:
    """Yield the lines of metrics.jsonl; one that was cut off by a crash is passed over."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            with suppress(msgspec.DecodeError, UnicodeDecodeError):
                yield msgspec.json.decode(line, type=_Metrics)


def _command(info: runs.RunInfo) -> str | None:
    """Return the command as a shell takes it, from the folder where it was typed."""
    words = [_public_word(word, info.cwd) for word in info.command]
    if words and Path(info.command[0]).name.startswith("python"):
        words[0] = "python"
    return shlex.join(words) or None


def _public_word(word: str, cwd: str) -> str:
    """Return a word of a command line without the way to anyone's home: `model=/home/me/m` is `model=m`."""
    name, equals, value = word.partition("=")
    if equals and "/" not in name:
        return f"{name}={_public(value, cwd)}"
    return _public(word, cwd)


def _public(value: Any, cwd: str) -> Any:
    """Return a value in which each path is relative to where the run was started, or its last part alone."""
    if isinstance(value, dict):
        return {key: _public(item, cwd) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_public(item, cwd) for item in cast("Sequence[Any]", value)]
    if not isinstance(value, str) or not value.startswith(("/", "~", "../")):
        return value
    path = Path(value)
    if path.is_relative_to(cwd) and path != Path(cwd):
        return path.relative_to(cwd).as_posix()
    return _last_part(value)


def _last_part(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2] or path
