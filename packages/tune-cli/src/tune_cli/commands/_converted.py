"""What `tune download` makes of weights that are not safetensors, and what a folder lacks to be trained."""

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tune_hub.folder import RECORD, Record

if TYPE_CHECKING:
    from tune_hub import DownloadResult

CONVERTED = "-hf"
"""Behind the folder's name, where its weights had to be converted."""
INDEX = "model.safetensors.index.json"


class Conversion(Record, frozen=True, kw_only=True):
    """Where a converted folder came from. That it has checksums tells it from one that was downloaded."""

    converted_from: dict[str, str]
    """The downloaded files, with their checksums."""


def needs_conversion(files: Sequence[str]) -> bool:
    """Whether the weights are of a kind that must be converted before training."""
    from tune_hub.weights import has_safetensors, has_weights

    is_adapter = any(Path(name).name == "adapter_config.json" for name in files)
    return has_weights(files) and not has_safetensors(files) and not is_adapter


def converted_folder(folder: Path) -> Path:
    """Where the converted model of a folder goes: beside it.

    Raises:
        RefusedError: it has no name, so nothing can be beside it.
    """
    from tune_hub.errors import RefusedError

    named = folder if folder.name not in ("", "..") else folder.resolve()
    if not named.name:
        raise RefusedError(
            f"{folder}: nothing can be beside it, where a converted model goes\n"
            "  choose another folder with --output-dir, or convert nothing with --no-convert"
        )
    return named.with_name(named.name + CONVERTED)


def converted(result: "DownloadResult", *, force: bool) -> tuple[Path, tuple[str, ...]]:
    """Convert what was downloaded, unless that was done before; return the folder, and what it lacks.

    The folder says where it came from, as a downloaded one does, and has the model's card.

    Args:
        result: what was downloaded.
        force: convert again.

    Raises:
        RefusedError: the folder holds something else, or the weights are of several models.
    """
    from tune_checkpoint import convert
    from tune_checkpoint.progress import ProgressLine
    from tune_hub.folder import locked, write_record

    weights, folder = _weights(result), converted_folder(result.output_dir)
    with locked(result.output_dir, lambda: tell_waiting(result.output_dir)):
        origin, made = _origin(result), _read(folder)
        _check_replaceable(folder, made, origin)
        if made == origin and not force and not missing_to_train(folder):
            return folder, ()
        with ProgressLine("converting") as progress:
            done = convert(weights, folder, force=made is not None, progress=progress)
        card = result.output_dir / "README.md"
        if card.exists() and not (folder / card.name).exists():
            shutil.copyfile(card, folder / card.name)
        write_record(folder, origin)
    return folder, done.warnings


def missing_to_train(folder: Path) -> list[str]:
    """Names of the files that a folder of safetensors lacks; `weights` if it has none at all."""
    from tune_hub.weights import has_safetensors

    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    missing = [name for name in _expected(folder, names) if name not in names]
    if not has_safetensors(names) and not missing:
        missing = ["weights"]
    is_adapter = "adapter_config.json" in names
    return [*([] if is_adapter or "config.json" in names else ["config.json"]), *missing]


def tell_waiting(folder: Path) -> None:
    """Say why nothing moves."""
    sys.stderr.write(f"waiting for another download to {folder}\n")
    sys.stderr.flush()


def _expected(folder: Path, names: Sequence[str]) -> list[str]:
    """The shards that the index names, or, without one, those that the names of the others count."""
    if "model.safetensors" in names:
        return []
    if INDEX in names:
        try:
            index = msgspec.json.decode((folder / INDEX).read_bytes())
            return sorted(set(map(str, index["weight_map"].values())))
        except (OSError, msgspec.MsgspecError, KeyError, TypeError, AttributeError):
            return []  # what is wrong with it, training says
    counts = {match[1] for name in names if (match := re.fullmatch(r"model-\d+-of-(\d+)\.safetensors", name))}
    shards = [
        f"model-{number:0{len(count)}}-of-{count}.safetensors"
        for count in sorted(counts)
        for number in range(1, min(int(count), 9999) + 1)
    ]
    return [INDEX, *shards] if shards else []


def _origin(result: "DownloadResult") -> Conversion:
    from tune_hub.folder import read_record

    record = read_record(result.output_dir)
    files = record.files if record else {}
    checksums = {name: files[name].checksum for name in sorted(result.files) if name in files}
    return Conversion(result.repository, result.commit, converted_from=checksums)


def _read(folder: Path) -> Conversion | None:
    """What a conversion wrote down; None where there was none, as in a downloaded folder."""
    try:
        return msgspec.json.decode((folder / RECORD).read_bytes(), type=Conversion)
    except (OSError, msgspec.MsgspecError):
        return None


def _check_replaceable(folder: Path, made: Conversion | None, origin: Conversion) -> None:
    """Let nothing be replaced but an earlier conversion of the same repository."""
    from tune_hub.errors import RefusedError

    if made is not None and made.repository == origin.repository:
        return
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    raise RefusedError(
        f"{folder}: is where the converted model goes, and is no conversion of {origin.repository}\n"
        "  move it away, or choose another folder with --output-dir"
    )


def _weights(result: "DownloadResult") -> Path:
    """What to convert: the one GGUF file, or the folder that the weights lie in."""
    from tune_hub.errors import RefusedError
    from tune_hub.weights import has_weights, pattern_of

    weights = sorted(name for name in result.files if has_weights([name]))
    others = [name for name in weights if not name.endswith(".gguf")]
    if others:
        return (result.output_dir / others[0]).parent
    models = list(dict.fromkeys(map(pattern_of, weights)))
    if len(models) > 1:
        raise RefusedError(
            f"{result.output_dir}: has {len(models)} GGUF models, and one can be converted: "
            f"{', '.join(models)}\n  choose one: tune download {result.repository} --include '{models[0]}'"
        )
    return result.output_dir / weights[0]
