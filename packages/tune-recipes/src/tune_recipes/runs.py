"""The layout of a run folder: made by whoever starts the run, filled by the recipe. Imports no torch.

runs/<YYYYMMDD-HHMMSS>-<config>-<4 hex>/
    config.yaml   every value, resolved        origins.json  where each came from
    recipe.py     the recipe as it ran         run.json      what ran, where, when, and how it ended
    metrics.jsonl one object per step          log.txt       everything that was printed
    logs/         what each process printed    not_finite.jsonl  steps without a finite loss
    checkpoints/  what the run goes on from    final/        the model, or the adapter
"""

import fcntl
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TextIO

import msgspec

from tune_recipes.base_model import BaseModel, read_base_model
from tune_recipes.catalog import builtin_config, config_label, expand_home, shown
from tune_recipes.config import Loaded
from tune_recipes.errors import UserError
from tune_recipes.files import write_atomic, write_json
from tune_recipes.yaml_file import dump_yaml, read_yaml

CONFIG = "config.yaml"
RECIPE = "recipe.py"
INFO = "run.json"
ORIGINS = "origins.json"
METRICS = "metrics.jsonl"
NOT_FINITE = "not_finite.jsonl"
LOG = "log.txt"
RANK_LOGS = "logs"
CHECKPOINTS = "checkpoints"
FINAL = "final"
MERGED = "merged"

Status = Literal["running", "finished", "failed", "interrupted"]


class RunInfo(msgspec.Struct, kw_only=True):
    """What run.json says."""

    id: str
    """The folder's name."""
    status: Status = "running"
    """How it stands; `running` after a crash too, since nobody was left to write another."""
    recipe: str
    """Path of the recipe file that was copied to recipe.py."""
    config: str | None
    """Name or path of the config it was started with."""
    command: list[str]
    """The words of the command line."""
    cwd: str = "."
    """Where it was typed; relative paths in the config begin here."""
    seed: int | None
    """The seed of initial weights, data order and dropout."""
    world_size: int = 1
    """Number of processes that it was started with."""
    device: str | None = None
    """What it computed on: `cpu`, `cuda`, ..."""
    versions: dict[str, str]
    """Python's, and those of the packages that decide the result."""
    git_commit: str | None
    """Commit of the folder it was started in, `-dirty` behind it if there were changes."""
    hardware: dict[str, Any]
    """Processor, cores, memory in bytes, accelerator."""
    base_model: BaseModel | None = None
    """What the folder of the model that is trained said of itself when the run began."""
    data: dict[str, Any] = {}
    """Fingerprint of the training data."""
    start: str
    """ISO 8601, UTC."""
    end: str | None = None
    """ISO 8601, UTC."""
    resumed: list[str] = []
    """When it was taken up again."""
    final_loss: float | None = None
    """Loss of the last step."""


def create_run(loaded: Loaded, recipe: Path, command: Sequence[str]) -> Path:
    """Make the folder of a new run and write down what will run.

    Raises:
        UserError: The folder cannot be written.
    """
    name = loaded.config_file.stem if loaded.config_file else recipe.stem
    now = datetime.now(UTC)
    parent = expand_home(loaded.config.output_dir)
    folder = parent / f"{now:%Y%m%d-%H%M%S}-{name}-{secrets.token_hex(2)}"
    info = RunInfo(
        id=folder.name,
        recipe=str(recipe.resolve()),
        config=config_label(loaded.config_file) if loaded.config_file else None,
        command=list(command),
        cwd=str(Path.cwd()),
        seed=getattr(loaded.config, "seed", None),
        versions=_versions(),
        git_commit=_git_commit(),
        hardware=_hardware(),
        start=_iso(now),
    )
    if isinstance(model := getattr(loaded.config, "model", None), str):
        info.base_model = read_base_model(model)
    try:
        folder.mkdir(parents=True)
        (folder / CHECKPOINTS).mkdir()
        write_atomic(folder / CONFIG, dump_yaml(loaded.tree()))
        write_json(folder / ORIGINS, {path: str(origin) for path, origin in loaded.origins.items()})
        shutil.copyfile(recipe, folder / RECIPE)
        write_info(folder, info)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"output_dir: cannot write to {parent}: {reason}\n  choose another with output_dir=FOLDER"
        ) from None
    return folder


def read_info(folder: Path) -> RunInfo:
    """Read run.json.

    Raises:
        UserError: The folder is not a run folder.
    """
    path = folder / INFO
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunInfo)
    except (FileNotFoundError, NotADirectoryError):
        what = (
            "no run.json in it"
            if folder.is_dir()
            else "it is a file"
            if folder.exists()
            else "no such folder"
        )
        raise UserError(f"{folder}: not a run folder: {what}{_nearby(folder)}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: damaged, or not written by tune: {error}") from None


def write_info(folder: Path, info: RunInfo) -> None:
    """Write run.json, whole."""
    write_json(folder / INFO, msgspec.to_builtins(info))


def update_info(folder: Path, **changes: Any) -> RunInfo:
    """Change fields of run.json."""
    info = msgspec.structs.replace(read_info(folder), **changes)
    write_info(folder, info)
    return info


@contextmanager
def locked(folder: Path, *, as_part: bool = False, wait_s: float = 2.0) -> Generator[TextIO]:
    """Open the run's log and keep other runs from the folder until the block ends.

    All processes of a run share the lock, so that it holds until the last one has ended; only who begins
    makes sure that nobody else has it.

    Args:
        folder: The run folder.
        as_part: Join the lock of the run's first process.
        wait_s: Seconds to wait for processes that are ending.

    Raises:
        UserError: Another run has it.
    """
    deadline = time.monotonic() + wait_s
    with (folder / LOG).open("a", encoding="utf-8") as log:
        while True:
            try:
                if not as_part:
                    fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fcntl.flock(log, fcntl.LOCK_SH | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UserError(f"{folder}: this run is going on already, in another process") from None
                time.sleep(0.05)
        yield log


def rank_log(folder: Path, rank: int) -> Path:
    """Return where a process keeps what it prints."""
    return folder / RANK_LOGS / f"rank_{rank}.log"


def now() -> str:
    """Return the time as run.json writes it."""
    return _iso(datetime.now(UTC))


def cut_metrics(folder: Path, step: int) -> None:
    """Drop the lines of metrics.jsonl that are later than `step`, and a half-written last one."""
    path = folder / METRICS
    if not path.exists():
        return
    kept: list[bytes] = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line.rstrip(b"\r\n") + b"\n")
        except (ValueError, KeyError, TypeError):
            break
    write_atomic(path, b"".join(kept))


def append_line(path: Path, value: Any) -> None:
    """Add one object to a file of JSON lines; a number that JSON has not (nan, inf) becomes null."""
    with path.open("ab") as file:
        file.write(msgspec.json.encode(value) + b"\n")


def next_command(folder: Path, data_format: str) -> str:
    """Return the command that asks the trained model something.

    A config `<dataset>_..._<recipe>` has a sister `<dataset>_generate` where one ships; it also has a prompt.

    Args:
        folder: The run folder.
        data_format: What the model was trained on: `chat`, `alpaca` or `completion`.
    """
    config = read_info(folder).config
    dataset = Path(config).stem.partition("_")[0] if config else ""
    sister = builtin_config(f"{dataset}_generate") if config and builtin_config(config) else None
    asks = {"completion": "raw"}.get(data_format, data_format)
    words = ["tune run generate"]
    prompt = "..."
    if sister and (given := read_yaml(sister)[0]).get("prompt_format", "chat") == asks:
        words.append(f"--config {sister.stem}")
        prompt = given.get("prompt", prompt)
    elif data_format != "chat":
        words.append(f"prompt_format={asks}")
    return " ".join([*words, f"model={shown(folder / FINAL)}", f'prompt="{prompt}"'])


def _nearby(folder: Path) -> str:
    """Name the latest run in the folder that was given, or beside it, or where runs are by default."""
    for place in (folder, folder.parent, Path("runs")):
        runs = sorted(place.glob(f"*/{INFO}")) if place.is_dir() else []
        if runs:
            return f"\n  the latest run in {place} is {shown(runs[-1].parent)}"
    return "\n  `tune run` makes one for each run, in the folder that output_dir names"


def _iso(time: datetime) -> str:
    return time.isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in ("tune-recipes", "tune-checkpoint", "torch", "tokenizers", "safetensors", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _git_commit() -> str | None:
    import subprocess

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    return f"{commit}-dirty" if commit and git("status", "--porcelain", "--untracked-files=no") else commit


def _hardware() -> dict[str, Any]:
    import platform

    hardware: dict[str, Any] = {
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
    }
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        hardware["processor"] = cpuinfo.partition("model name\t: ")[2].partition("\n")[0]
        hardware["memory_bytes"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        pass
    return hardware
