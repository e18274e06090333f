"""`plan_conversion` and `convert`. The module's name leaves `tune_checkpoint.convert` to the function."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import msgspec
from msgspec import Struct

from tune_checkpoint.atomic import atomic_folder
from tune_checkpoint.dtypes import CLI_DTYPES
from tune_checkpoint.errors import WriteFailedError, reading, writing
from tune_checkpoint.kinds import detect_kind
from tune_checkpoint.layout import FileLayout, safetensors_layout
from tune_checkpoint.output_folder import check_apart, check_output
from tune_checkpoint.plan import KINDS, TARGETS, Kind, Plan, Progress, SideFile, Target
from tune_checkpoint.shards import DEFAULT_SHARD_BYTES, write_file
from tune_checkpoint.threads import num_jobs

Planner = Callable[[Path, str | None, Kind], Plan]

# A planner brings what its format needs, so it is imported when its turn has come.
PLANNERS: dict[Kind, str] = {
    "hf": "tune_checkpoint.hf:plan_hf",
    "torch": "tune_checkpoint.hf:plan_hf",
    "gguf": "tune_checkpoint.gguf.planner:plan_gguf",
    "meta": "tune_checkpoint.meta.planner:plan_meta",
    "mistral": "tune_checkpoint.meta.planner:plan_mistral",
    "torchtune": "tune_checkpoint.torchtune:plan_torchtune",
    "litgpt": "tune_checkpoint.litgpt.planner:plan_litgpt",
}


class ConversionResult(Struct, frozen=True):
    """What a conversion wrote."""

    output_dir: str
    kind: Kind
    """What was converted."""
    files: tuple[str, ...]
    """Names in `output_dir`, the weights first."""
    num_tensors: int
    num_parameters: int
    nbytes: int
    """Bytes of the weights."""
    seconds: float
    verified: bool
    """The weights were read again, and were what had been computed."""
    warnings: tuple[str, ...]
    """What the source lacked and could not be made, and what in it is damaged, one sentence each."""


class _Writing(Struct, frozen=True):
    """How a plan is carried out: what `convert` is told beside what to make."""

    output_dir: Path
    force: bool
    max_shard_size: int
    verify: bool
    jobs: int
    progress: Progress | None


def plan_conversion(
    src: Path | str,
    *,
    to: Target = "hf",
    kind: Kind | None = None,
    dtype: str | None = None,
    adapter: Path | str | None = None,
    quant: str | None = None,
    output_dir: Path | str | None = None,
    force: bool = False,
) -> Plan:
    """Say what a conversion would do, from headers alone; only of an adapter the values are read.

    Args:
        src: a checkpoint: a folder or a file.
        to: what to make: `hf`, `meta` or `gguf`.
        kind: what `src` is; None finds out.
        dtype: type of the floating-point weights: `fp32`, `fp16` or `bf16`. None keeps what is
            there, and makes fp32 of quantised tensors.
        adapter: a PEFT folder to merge into the weights.
        quant: type of the matrices of a GGUF file: `f16`, `q8_0`, `q4_0`, ...; None keeps theirs.
        output_dir: refuse what `convert` into this folder would refuse; None looks at the source alone.
        force: it is to be replaced.

    Returns:
        The plan: every output tensor with its sources and operations, and the files beside the weights.

    Raises:
        CheckpointNotFoundError: nothing is at `src`.
        CorruptFileError: a file breaks its format.
        UnsupportedCheckpointError: it is of no kind that can be converted.
        OutputExistsError: `output_dir` cannot be made or replaced.
        ReadFailedError: the system refused to read it.
        ValueError: an argument has none of the values that it may have.
    """
    _check_arguments(to, kind, dtype, quant)
    if output_dir is not None:
        check_output(src, adapter, Path(output_dir), to, force=force)
    with reading(src):
        plan = _planned(Path(src), to, kind, CLI_DTYPES[dtype] if dtype else None, adapter, quant)
    if output_dir is not None:
        check_apart(_paths(plan), Path(output_dir))
    return plan


def _check_arguments(to: str, kind: str | None, dtype: str | None, quant: str | None) -> None:
    if dtype is not None and dtype not in CLI_DTYPES:
        raise ValueError(f"dtype {dtype!r}: one of {', '.join(CLI_DTYPES)}, or None to keep")
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind {kind!r}: one of {', '.join(KINDS)}, or None to find out")
    if to not in TARGETS:
        raise ValueError(f"to={to!r}: one of {', '.join(TARGETS)}")
    if quant is not None and to != "gguf":
        raise ValueError(f"quant={quant!r}: only a GGUF file is quantised (to='gguf')")


def _planned(
    src: Path, to: Target, kind: Kind | None, dtype: str | None, adapter: Path | str | None, quant: str | None
) -> Plan:
    kind = kind or detect_kind(src)
    plan = _found(PLANNERS[kind])(src, dtype, kind)
    if adapter is not None:
        from tune_checkpoint.peft.planner import with_adapter

        plan = with_adapter(plan, Path(adapter))
    if to == "meta":
        from tune_checkpoint.meta.target import to_meta

        return to_meta(plan)
    if to == "gguf":
        from tune_checkpoint.gguf.target import to_gguf

        return to_gguf(plan, quant)
    return plan


def convert(
    src: Path | str,
    output_dir: Path | str,
    *,
    to: Target = "hf",
    kind: Kind | None = None,
    dtype: str | None = None,
    adapter: Path | str | None = None,
    quant: str | None = None,
    force: bool = False,
    max_shard_size: int = DEFAULT_SHARD_BYTES,
    verify: bool = True,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> ConversionResult:
    """Convert a checkpoint, in memory that does not grow with the model.

    The folder appears when it is whole. A failure leaves nothing behind; after a kill or an interrupt the
    same call goes on with the files that were finished. `src` is only read.

    Args:
        src: a checkpoint: a folder or a file.
        output_dir: the folder to make.
        to: as in `plan_conversion`, and so are `kind`, `dtype`, `adapter` and `quant`.
        kind: what `src` is.
        dtype: type of the floating-point weights.
        adapter: a PEFT folder.
        quant: type of the matrices of a GGUF file.
        force: replace `output_dir` if it is the folder of a model, with nothing else in it.
        max_shard_size: bytes of weights in one file of a Hugging Face folder, at most.
        verify: read the weights again, and compare a checksum of each tensor with what was computed.
        jobs: how many tensors are worked on at a time, up to 32; None takes one for each core, up to 8.
        progress: see `Progress`; called several times a second.

    Returns:
        What was written, and what the source lacked.

    Raises:
        OutputExistsError: `output_dir` cannot be made or replaced (see `atomic_folder`), or holds `src` or
            what does not belong to a model.
        WriteFailedError: the system refused to write, or there is too little room.
        VerificationError: the weights do not read as they were written.
        CheckpointError: as `plan_conversion` does.
    """
    _check_arguments(to, kind, dtype, quant)
    started = time.perf_counter()
    src, output_dir = Path(src), Path(output_dir)
    how = _Writing(output_dir, force, max_shard_size, verify, num_jobs(jobs), progress)
    with writing(output_dir):
        plan = plan_conversion(
            src,
            to=to,
            kind=kind,
            dtype=dtype,
            adapter=adapter,
            quant=quant,
            output_dir=output_dir,
            force=force,
        )
        weights, damaged = _carry_out(plan, how)
    return _result(plan, how, weights, damaged, time.perf_counter() - started)


def _carry_out(plan: Plan, how: _Writing) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Write everything the plan has, and give the names of the weights' files, and warnings."""
    # Brings numpy, which planning does without.
    from tune_checkpoint.write import Meter, check_written, forget_record, write_layout

    files, index = _layout(plan, how.max_shard_size)
    meter = Meter(how.progress, plan.nbytes * (2 if how.verify else 1))
    with atomic_folder(how.output_dir, force=how.force, key=_key(plan, how.max_shard_size)) as folder:
        _check_room(plan, how.output_dir, folder)
        record = write_layout(files, folder, meter, jobs=how.jobs, checked=how.verify)
        if how.verify:
            check_written(files, folder, record, meter, jobs=how.jobs)
        for file in (*index, *plan.files):
            write_file(folder / file.name, file.chunks())
        forget_record(folder)
    return (*(file.name for file in files), *(file.name for file in index)), tuple(record.damaged)


def _result(
    plan: Plan, how: _Writing, weights: tuple[str, ...], damaged: tuple[str, ...], seconds: float
) -> ConversionResult:
    return ConversionResult(
        output_dir=str(how.output_dir),
        kind=plan.kind,
        files=(*weights, *(file.name for file in plan.files)),
        num_tensors=len(plan.tensors),
        num_parameters=plan.num_parameters,
        nbytes=plan.nbytes,
        seconds=seconds,
        verified=how.verify,
        warnings=(*plan.warnings, *damaged),
    )


def _layout(plan: Plan, max_shard_size: int) -> tuple[tuple[FileLayout, ...], tuple[SideFile, ...]]:
    if plan.target == "hf":
        return safetensors_layout(plan.tensors, max_shard_size)
    if plan.target == "meta":
        from tune_checkpoint.meta.target import meta_layout

        return meta_layout(plan), ()
    from tune_checkpoint.gguf.layout import gguf_layout

    return gguf_layout(plan), ()


def _found(place: str) -> Planner:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def _paths(plan: Plan) -> list[str]:
    return sorted({source.path for tensor in plan.tensors for source in tensor.inputs})


def _key(plan: Plan, max_shard_size: int) -> str:
    """Stand for all that decides what is written: a changed source must not be gone on with."""
    stated = msgspec.to_builtins((plan, max_shard_size), builtin_types=(bytes,))
    # As ASCII, in which a path of any bytes can be spelled; what is held of files goes in by its digest.
    text = json.dumps(stated, default=lambda content: hashlib.sha256(content).hexdigest())
    digest = hashlib.sha256(text.encode())
    for path in (*_paths(plan), *(file.path for file in plan.files if file.path is not None)):
        state = Path(path).stat()
        digest.update(os.fsencode(path) + f"\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:16]


def _check_room(plan: Plan, output_dir: Path, folder: Path) -> None:
    written = sum(entry.stat().st_size for entry in folder.iterdir())
    wanted, free = plan.nbytes - written, shutil.disk_usage(folder).free
    if wanted > free:
        raise WriteFailedError(
            f"{output_dir}: the weights take {wanted / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free there: "
            f"{(wanted - free) / 1e6:,.1f} MB are missing; make room, or choose another disk"
        )
