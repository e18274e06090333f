"""`plan_conversion` and `convert`. The module's name leaves `tune_checkpoint.convert` to the function."""

import time
from pathlib import Path

from msgspec import Struct

from tune_checkpoint.atomic import atomic_folder, check_free
from tune_checkpoint.checkpoint import is_gguf
from tune_checkpoint.dtypes import CLI_DTYPES
from tune_checkpoint.errors import (
    CheckpointNotFoundError,
    OutputExistsError,
    UnsupportedCheckpointError,
    WriteFailedError,
)
from tune_checkpoint.mapped import MappedFile
from tune_checkpoint.plan import Plan, Progress
from tune_checkpoint.shards import DEFAULT_SHARD_BYTES, write_checkpoint, write_file

CONVERTIBLE = "a GGUF file of the Llama family can be converted"

# What stands in the folder of a model, and may be lost when a conversion replaces it.
_MODEL_SUFFIXES = (".safetensors", ".json", ".jinja", ".model", ".bin")
_MODEL_FILES = {
    "merges.txt",
    "vocab.txt",
    "README.md",
    "LICENSE",
    "LICENSE.md",
    "LICENSE.txt",
    "USE_POLICY.md",
    "NOTICE",
    ".gitattributes",
}


class ConversionResult(Struct, frozen=True):
    """What a conversion wrote."""

    output_dir: str
    files: tuple[str, ...]
    """Names in `output_dir`, the weights first."""
    num_tensors: int
    num_parameters: int
    nbytes: int
    """Bytes of the weights."""
    seconds: float
    warnings: tuple[str, ...]
    """What the source lacked and could not be made, one sentence each."""


def plan_conversion(src: Path | str, *, dtype: str | None = None) -> Plan:
    """Say what a conversion to a Hugging Face folder would do, from headers alone.

    Args:
        src: a GGUF file of the Llama family.
        dtype: type of the floating-point weights: `fp32`, `fp16` or `bf16`. None keeps what is
            there, and makes fp32 of quantised tensors.

    Returns:
        The plan: every output tensor with its sources and operations, and the files beside the weights.

    Raises:
        CheckpointNotFoundError: nothing is at `src`.
        CorruptFileError: the file breaks its format.
        UnsupportedCheckpointError: it is of another kind; the message says what can be converted.
        ValueError: `dtype` is none of those.
    """
    if dtype is not None and dtype not in CLI_DTYPES:
        raise ValueError(f"dtype {dtype!r}: one of {', '.join(CLI_DTYPES)}, or None to keep")
    src = Path(src)
    if src.is_dir():
        raise UnsupportedCheckpointError(_refuse_folder(src))
    file = MappedFile(src)
    if not is_gguf(file):
        raise UnsupportedCheckpointError(f"{src}: not a GGUF file; {CONVERTIBLE}")
    from tune_checkpoint.gguf.planner import plan_gguf

    return plan_gguf(file, CLI_DTYPES[dtype] if dtype else None)


def convert(
    src: Path | str,
    output_dir: Path | str,
    *,
    dtype: str | None = None,
    force: bool = False,
    max_shard_size: int = DEFAULT_SHARD_BYTES,
    progress: Progress | None = None,
) -> ConversionResult:
    """Convert a checkpoint to a Hugging Face folder, in memory that does not grow with the model.

    The folder appears when it is whole; a failure leaves nothing behind, and `src` is only read.

    Args:
        src: a GGUF file of the Llama family.
        output_dir: the folder to make.
        dtype: as in `plan_conversion`.
        force: replace `output_dir` if it is the folder of a model, with nothing else in it.
        max_shard_size: bytes of weights in one file, at most.
        progress: called with the bytes done and the bytes in all, about once a megabyte.

    Returns:
        What was written, and what the source lacked.

    Raises:
        OutputExistsError: `output_dir` cannot be made or replaced (see `atomic_folder`), or holds `src` or
            what does not belong to a model.
        WriteFailedError: the system refused to write.
        CheckpointError: as `plan_conversion` does.
    """
    started = time.perf_counter()
    src, output_dir = Path(src), Path(output_dir)
    try:
        _check_output(src, output_dir, force)
        plan = plan_conversion(src, dtype=dtype)
        weights = _carry_out(plan, output_dir, force, max_shard_size, progress)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise WriteFailedError(f"{output_dir}: could not be written: {error.strerror}{where}") from error
    return ConversionResult(
        output_dir=str(output_dir),
        files=(*weights, *(file.name for file in plan.files)),
        num_tensors=len(plan.tensors),
        num_parameters=plan.num_parameters,
        nbytes=plan.nbytes,
        seconds=time.perf_counter() - started,
        warnings=plan.warnings,
    )


def _carry_out(
    plan: Plan, output_dir: Path, force: bool, max_shard_size: int, progress: Progress | None
) -> tuple[str, ...]:
    """Write everything the plan has, and give the names of the weights' files."""
    # Brings numpy, which planning does without.
    from tune_checkpoint.execute import planned_tensors

    with atomic_folder(output_dir, force=force) as folder:
        weights = write_checkpoint(folder, planned_tensors(plan, progress), max_shard_size=max_shard_size)
        for file in plan.files:
            write_file(folder / file.name, file.content)
    return weights


def _check_output(src: Path, output_dir: Path, force: bool) -> None:
    """Refuse before any work is done."""
    if not src.exists():
        raise CheckpointNotFoundError(f"{src}: no such file; {CONVERTIBLE}")
    if src.resolve().is_relative_to(output_dir.resolve()):
        raise OutputExistsError(f"{output_dir}: holds the source {src}; choose another output folder")
    check_free(output_dir, force=force)
    if output_dir.is_dir():
        _check_replaceable(output_dir)


def _check_replaceable(folder: Path) -> None:
    """Refuse to replace anything but a model's folder: what else stands there may have no copy."""
    entries = sorted(folder.iterdir())
    stray = next((entry for entry in entries if not _is_of_a_model(entry)), None)
    if stray is None and entries and not (folder / "config.json").is_file():
        stray = entries[0]
    if stray is not None:
        raise OutputExistsError(
            f"{folder}: {stray.name} would be lost; only a model's folder is replaced, with its config.json, "
            "weights and tokenizer and nothing else. Choose another output folder"
        )


def _is_of_a_model(path: Path) -> bool:
    return path.is_file() and (path.suffix in _MODEL_SUFFIXES or path.name in _MODEL_FILES)


def _refuse_folder(folder: Path) -> str:
    gguf_files = sorted(path.name for path in folder.glob("*.gguf"))
    if gguf_files:
        return f"{folder}: a folder with {', '.join(gguf_files)}; give the path of the .gguf file itself"
    if any(folder.glob("*.safetensors")):
        return (
            f"{folder}: a folder with safetensors weights, which is what a conversion writes; {CONVERTIBLE}"
        )
    found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    return f"{folder}: a folder with {found}; {CONVERTIBLE}"
