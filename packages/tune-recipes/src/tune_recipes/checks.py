"""Looks whether what a Config names is on the disk, before anything heavy is loaded. Imports no torch."""

from pathlib import Path
from typing import Any

from tune_recipes.catalog import BUILTIN_PREFIX, builtin_files, local_path, shown
from tune_recipes.config import Loaded, Origin
from tune_recipes.errors import UserError
from tune_recipes.models.adapter_config import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    base_of_adapter,
    read_adapter_config,
)
from tune_recipes.models.config import read_model_config
from tune_recipes.options import list_options, metadata


class MissingFolder(UserError):
    """A model's folder does not exist; `folder` is what was asked for."""

    def __init__(self, message: str, folder: Path):
        super().__init__(message)
        self.folder = folder


def check_inputs(loaded: Loaded) -> None:
    """Check that the files and folders that a Config names exist and hold what they must.

    Raises:
        UserError: One does not, with the option and where it was set.
    """
    for option in list_options(type(loaded.config)):
        kind = next((meta.extra.get("names") for meta in metadata(option.type) if meta.extra), None)
        value = _value_at(loaded.config, option.path)
        if kind not in _CHECKS or not isinstance(value, str):
            continue
        origin = loaded.origins.get(option.path, Origin("default"))
        try:
            path = local_path(value)
            _check_builtin(value, path)
            _CHECKS[kind](path, loaded.config)
        except UserError as error:
            error.args = (f"{option.path}: {error}{_from(origin)}", *error.args[1:])
            raise
        except OSError as error:  # too long a name, or no right to look
            raise UserError(f"{option.path}: {value}: {error.strerror}{_from(origin)}") from None


def _value_at(config: Any, path: str) -> Any:
    for part in path.split("."):
        config = getattr(config, part, None)
    return config


def _from(origin: Origin) -> str:
    return f"\n  (set by {origin.where})" if origin.where else ""


def _check_builtin(value: str, path: Path) -> None:
    if value.startswith(BUILTIN_PREFIX) and not path.exists():
        raise UserError(f"{value} does not ship with tune; this does: {', '.join(builtin_files())}")


def _check_file(path: Path, _config: Any) -> None:
    if path.is_dir():
        raise UserError(f"{path} is a folder; a file is needed")
    if not path.is_file():
        where = "" if path.is_absolute() else f" in {Path.cwd()}"
        raise UserError(f"{path}: no such file{where}")


def _check_checkpoint(folder: Path, config: Any) -> None:
    _check_folder(folder)
    from_scratch = getattr(config, "init", "checkpoint") == "random"
    if not (from_scratch and config.shape is not None):
        read_model_config(folder)
    _check_tokenizer(folder)
    if not from_scratch and not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder}: no weights in it (*.safetensors)\n  {_found(folder)}")


def _check_model_or_adapter(folder: Path, config: Any) -> None:
    _check_folder(folder)
    if (folder / CONFIG_FILE).is_file():
        _check_adapter(folder, config)
        _check_checkpoint(base_of_adapter(folder), config)
    else:
        _check_checkpoint(folder, config)


def _check_adapter(folder: Path, _config: Any) -> None:
    _check_folder(folder)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: not a PEFT adapter: no {name} in it\n  {_found(folder)}")
    read_adapter_config(folder)


def _check_folder(folder: Path) -> None:
    if folder.suffix == ".gguf":
        raise UserError(
            f"{folder} is a GGUF file; the folder of a Hugging Face checkpoint is needed\n"
            f"  `tune convert-ckpt {shown(folder)} --output-dir {shown(folder.with_suffix(''))}` makes one"
        )
    if folder.is_file():
        raise UserError(f"{folder} is a file; the folder of a Hugging Face checkpoint is needed")
    if not folder.is_dir():
        raise MissingFolder(f"{folder}: no such folder", folder)


def _check_tokenizer(folder: Path) -> None:
    if not (folder / "tokenizer.json").is_file():
        raise UserError(f"{folder}: no tokenizer.json in it\n  {_found(folder)}")


def _found(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"found: {listed}" if names else "the folder is empty"


_CHECKS = {
    "file": _check_file,
    "checkpoint": _check_checkpoint,
    "adapter": _check_adapter,
    "model": _check_model_or_adapter,
}
