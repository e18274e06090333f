"""`verify`. The module's name leaves `tune_checkpoint.verify` to the function."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from tune_checkpoint._convert import plan_conversion
from tune_checkpoint.checkpoint import BIN_INDEX_NAME, BIN_NAME, INDEX_NAME, WEIGHTS_NAME
from tune_checkpoint.checks.adapter import check_pairs
from tune_checkpoint.checks.files import SHARD, check_files, shards_in
from tune_checkpoint.checks.manifest import MANIFEST, Sums, check_sum, read_manifest, unlisted
from tune_checkpoint.checks.problems import Problem, problem_of
from tune_checkpoint.checks.shapes import CONFIG, check_shapes, why_unchecked
from tune_checkpoint.checks.tokenizer import MODEL, TOKENIZER, check_tokenizer
from tune_checkpoint.errors import CheckpointError, CorruptFileError, UnsupportedCheckpointError, reading
from tune_checkpoint.facts import EMBEDDINGS
from tune_checkpoint.listing import ADAPTER_CONFIG, AnyKind, distinct, kind_of
from tune_checkpoint.plan import Progress, TensorPlan, TensorSlice
from tune_checkpoint.planning import read_json
from tune_checkpoint.threads import do_all, num_jobs

TORCH_SUFFIXES = (".bin", ".pt", ".pth")


class Verification(Struct, frozen=True):
    """What is wrong with a checkpoint, if anything is."""

    path: str
    kind: AnyKind | None
    """None of a file that is too damaged to tell."""
    ok: bool
    problems: tuple[Problem, ...]
    checked: tuple[str, ...]
    """What was looked at."""
    not_checked: tuple[str, ...]
    """What was not, each with the reason."""
    notes: tuple[str, ...]
    """What is unusual, and may well be meant."""
    num_tensors: int
    nbytes: int
    """Bytes that were read."""
    seconds: float


class _Report:
    """Collects what the checks say."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.checked: list[str] = []
        self.not_checked: list[str] = []
        self.notes: list[str] = []


def verify(path: Path | str, *, progress: Progress | None = None, jobs: int | None = None) -> Verification:
    """Read a whole checkpoint and report all that is wrong with it.

    Looked at are the headers; the index, its total size and leftovers beside it; names and shapes against
    the configuration, for families of models that are known; whether all values are finite; the checksums
    that files of torch.save have; whether every token has a row in the embedding; and the checksums of a
    `SHA256SUMS`, if there is one.

    Args:
        path: a checkpoint of any kind, a PEFT adapter, or one file of either.
        progress: see `Progress`; called several times a second.
        jobs: how many tensors are read at a time; None takes one for each core, up to 8.

    Returns:
        All problems, and what was looked at. A file that breaks its format is a problem, not an exception.

    Raises:
        CheckpointNotFoundError: nothing is there.
        UnsupportedCheckpointError: it is no checkpoint.
        ReadFailedError: the system refused to read it.
    """
    started = time.perf_counter()
    path, report = Path(path), _Report()
    with reading(path):
        kind = _kind(path, report)
        tensors = () if kind is None else _check_headers(path, kind, report)
        sums = _manifest(path, tensors, report)
    nbytes = _read_all(path, tensors, sums, report, progress, num_jobs(jobs))
    return Verification(
        path=str(path),
        kind=kind,
        ok=not report.problems,
        problems=tuple(report.problems),
        checked=tuple(report.checked),
        not_checked=tuple(report.not_checked),
        notes=tuple(report.notes),
        num_tensors=len(tensors),
        nbytes=nbytes,
        seconds=time.perf_counter() - started,
    )


def _kind(path: Path, report: _Report) -> AnyKind | None:
    try:
        return kind_of(path)
    except CorruptFileError as error:
        report.problems.append(problem_of("headers", path.parent, error))
    except UnsupportedCheckpointError as error:
        if path.is_dir() and shards_in(path):
            return "hf"  # without its index
        if path.is_dir() or path.suffix not in TORCH_SUFFIXES:
            raise
        report.problems.append(problem_of("headers", path.parent, error))
    return None


def _check_headers(path: Path, kind: AnyKind, report: _Report) -> tuple[TensorSlice, ...]:
    """Check all but the values. Returns the tensors that could be found."""
    found = check_files(path, kind)
    report.problems.extend(found.problems)
    report.checked.append("headers")
    if _has_index(path):
        report.checked.append("index")
    if found.is_whole:
        _check_shapes(path, kind, found.tensors, report)
    else:
        report.not_checked.append("shapes: files are damaged or missing")
    _check_tokenizer(path, kind, found.tensors, report)
    return found.tensors


def _has_index(path: Path) -> bool:
    return path.is_dir() and any((path / name).is_file() for name in (INDEX_NAME, BIN_INDEX_NAME))


def _check_shapes(path: Path, kind: AnyKind, tensors: Sequence[TensorSlice], report: _Report) -> None:
    """Check the shapes, or note why they were not."""
    try:
        why = _shapes(path, kind, tensors, report)
    except UnsupportedCheckpointError as error:
        why = str(error).partition("\n")[0].removeprefix(f"{path}: ")
    except CheckpointError as error:
        report.problems.append(problem_of("shapes", path if path.is_dir() else path.parent, error))
        return
    if why is not None:
        report.not_checked.append(f"shapes: {why}")


def _shapes(path: Path, kind: AnyKind, tensors: Sequence[TensorSlice], report: _Report) -> str | None:
    """Check the shapes. Returns why they cannot be, if they cannot."""
    folder = path if path.is_dir() else path.parent
    if kind == "adapter":
        report.problems.extend(check_pairs(tensors, read_json(folder / ADAPTER_CONFIG)))
        report.checked.append("shapes (of each pair)")
        return None
    if kind in ("hf", "torch"):
        if path.is_dir() or path.name in (WEIGHTS_NAME, BIN_NAME):
            return _against_config(tensors, read_json(folder / CONFIG), report)
        return "one file of several" if SHARD.fullmatch(path.name) else "a file by itself"
    plan = plan_conversion(path, kind=kind)  # which holds all names and shapes against the metadata
    config = next((file.content for file in plan.files if file.name == CONFIG), b"{}")
    return _against_config(plan.tensors, msgspec.json.decode(config), report)


def _against_config(
    tensors: Sequence[TensorSlice | TensorPlan], config: dict[str, Any], report: _Report
) -> str | None:
    if why := why_unchecked(config):
        return why
    report.problems.extend(check_shapes(tensors, config))
    report.checked.append(f"shapes ({config['model_type']})")
    return None


def _check_tokenizer(path: Path, kind: AnyKind, tensors: Sequence[TensorSlice], report: _Report) -> None:
    embedding = next((tensor for tensor in tensors if tensor.name in EMBEDDINGS), None)
    # Parts of a Meta checkpoint have some rows each, GGUF files their tokens inside: planning counts those.
    is_planned = kind in ("meta", "gguf")
    if not path.is_dir() or is_planned or embedding is None or len(embedding.shape) != 2:
        return
    try:
        found = check_tokenizer(path, embedding)
    except UnsupportedCheckpointError:
        report.not_checked.append(f"tokenizer: no {TOKENIZER}, and a {MODEL} of a kind that cannot be read")
        return
    if found is None:
        report.not_checked.append(f"tokenizer: no {TOKENIZER}")
        return
    report.problems.extend(found.problems)
    report.notes.extend(found.notes)
    report.checked.append("tokenizer")


def _read_all(
    path: Path,
    tensors: Sequence[TensorSlice],
    sums: Sums,
    report: _Report,
    progress: Progress | None,
    jobs: int,
) -> int:
    """Read every value, and hash what is listed. Returns the number of bytes."""
    # Brings numpy, which headers do without.
    from tune_checkpoint.checks.values import check_values
    from tune_checkpoint.sources import Sources
    from tune_checkpoint.write import Meter

    folder, once = path if path.is_dir() else path.parent, distinct(tensors)
    nbytes = sum(_size(folder / name) for name in sums) + sum(tensor.nbytes for tensor in once)
    meter = Meter(progress, nbytes)
    with Sources() as sources:
        tasks: list[Callable[[], Problem | None]] = [
            *(lambda tensor=tensor: check_values(tensor, sources, meter) for tensor in once),
            *(
                lambda name=name, digest=digest: check_sum(folder, name, digest, meter.add)
                for name, digest in sums.items()
            ),
        ]
        found = do_all(tasks, jobs, meter.stop)
    report.problems.extend(item for item in found if item is not None)
    if once:
        report.checked.append("finite values")
    return nbytes


def _manifest(path: Path, tensors: Sequence[TensorSlice], report: _Report) -> Sums:
    """What the list of checksums says of what is looked at."""
    manifest = read_manifest(path if path.is_dir() else path.parent)
    if manifest is None:
        return {}
    sums, problems = manifest
    weights = dict.fromkeys(Path(tensor.path).name for tensor in tensors)
    if not path.is_dir():
        sums = {name: digest for name, digest in sums.items() if name == path.name}
        weights = {path.name: None}
    report.problems.extend((*problems, *unlisted(weights, sums)))
    report.checked.append(MANIFEST)
    return sums


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
