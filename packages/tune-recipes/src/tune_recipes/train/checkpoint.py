"""What a stopped run goes on from: trained weights, optimizer, loader, random state. Whole or absent.

checkpoints/step_00000100/
    __0_0.distcp ...   each process's parts of the tensors, as torch.distributed.checkpoint writes them
    .metadata          which part of which tensor is where
    checkpoint.json    step, loader, size and sha256 of each file; written last, so a folder with it is whole
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from tune_recipes.catalog import shown
from tune_recipes.data.loader import Loader
from tune_recipes.errors import UserError
from tune_recipes.models.decoder import Decoder
from tune_recipes.train.distributed import World

MARKER = "checkpoint.json"


class FileSum(msgspec.Struct, frozen=True):
    """What a file of a checkpoint was when it was written."""

    bytes: int
    sha256: str


class Marker(msgspec.Struct, kw_only=True):
    """What checkpoint.json says."""

    step: int
    """Steps taken."""
    world_size: int
    """Number of processes that wrote it."""
    loader: dict[str, Any]
    """Where the data stands."""
    files: dict[str, FileSum]
    """All other files of the folder."""


@dataclass
class TrainState:
    """Everything that a step changes."""

    model: Decoder
    optimizer: torch.optim.Optimizer
    loader: Loader
    step: int = 0
    """Steps taken."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the trained parameters and the optimizer's state of each, by name."""
        found: dict[str, Tensor] = {}
        for name, parameter in trained_parameters(self.model):
            found[f"model.{name}"] = parameter.detach()
            for key, value in self.optimizer.state.get(parameter, {}).items():
                found[f"optimizer.{name}.{key}"] = value
        return found

    def allocate(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """Give the optimizer room for a state of these shapes, and return all tensors, to be filled in place.

        Raises:
            ValueError: They belong to another model.
        """
        parameters = dict(trained_parameters(self.model))
        self._check(parameters, shapes)
        for name, parameter in parameters.items():
            prefix = f"optimizer.{name}."
            for full_name in (full_name for full_name in shapes if full_name.startswith(prefix)):
                same = shapes[full_name] == tuple(parameter.shape)
                value = torch.zeros_like(parameter) if same else torch.zeros((), device=parameter.device)
                self.optimizer.state[parameter][full_name.removeprefix(prefix)] = value.detach()
        return self.tensors()

    def _check(self, parameters: dict[str, nn.Parameter], shapes: dict[str, tuple[int, ...]]) -> None:
        saved = {name.removeprefix("model.") for name in shapes if name.startswith("model.")}
        if parameters.keys() != saved:
            name = min(parameters.keys() ^ saved)
            raise ValueError(f"it holds other parameters than the model trains, {name} for one")
        for name, parameter in parameters.items():
            if (there := shapes[f"model.{name}"]) != tuple(parameter.shape):
                raise ValueError(f"{name}: shape {list(there)}, the model's is {list(parameter.shape)}")


def trained_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Go through the parameters that training changes; a tied one comes under its first name."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run that were finished, oldest first."""
    return sorted(path.parent for path in folder.glob(f"step_*/{MARKER}"))


def load_latest(folder: Path, state: TrainState, world: World, *, say: Callable[[str], None]) -> Path | None:
    """Take the state of the latest checkpoint that is whole, if there is any; every process must call it.

    Args:
        folder: Of the run's checkpoints.
        state: What to fill. The number of processes may be another than the checkpoint's.
        world: The processes.
        say: Told which checkpoints are damaged.

    Raises:
        UserError: All of them are damaged, or the latest whole one belongs to another model or other data.
    """
    world.from_first(lambda: _clear_leftovers(folder))
    damaged: list[str] = []
    found = world.from_first(lambda: list_checkpoints(folder))
    for path in reversed(found):
        marker, problem = _verify(path, world)
        if marker is None:
            damaged.append(f"{path}: this checkpoint cannot be used: {problem}")
            continue
        for line in damaged:
            say(f"{line}\n  going on from the last one that is whole, {path.name}")
        _load(path, marker, state, world)
        return path
    if damaged:
        raise UserError(
            "\n".join(damaged)
            + f"\n  to start from the beginning, delete them: `rm -r {' '.join(map(shown, found))}`"
        )
    return None


def _clear_leftovers(folder: Path) -> None:
    for leftover in folder.glob(".step_*"):  # of a save or a removal that was killed
        shutil.rmtree(leftover)


def _verify(path: Path, world: World) -> tuple[Marker | None, str]:
    """Read the marker and hold the files against it, each process some; say what is wrong, if anything."""
    marker, problem = world.from_first(lambda: _read_marker(path))
    if marker is None:
        return None, problem
    mine = sorted(marker.files)[world.rank :: world.size]
    problems = world.gather([text for name in mine if (text := _wrong_with(path / name, marker.files[name]))])
    first = next((text for texts in problems for text in texts), "")
    return (None, first) if first else (marker, "")


def _read_marker(path: Path) -> tuple[Marker | None, str]:
    try:
        return msgspec.json.decode((path / MARKER).read_bytes(), type=Marker), ""
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        return None, f"{MARKER} is damaged: {error}"


def _wrong_with(path: Path, expected: FileSum) -> str:
    try:
        if (size := path.stat().st_size) != expected.bytes:
            return f"{path.name} has {size:,} bytes, not {expected.bytes:,}"
        if file_sum(path) != expected:
            return f"{path.name} is not what was written (another sha256)"
    except OSError as error:
        return f"{path.name}: {error.strerror}"
    return ""


def file_sum(path: Path) -> FileSum:
    """Return a file's size and hash."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileSum(path.stat().st_size, digest)


def _load(path: Path, marker: Marker, state: TrainState, world: World) -> None:
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = FileSystemReader(path)
    saved = reader.read_metadata().state_dict_metadata
    shapes = {name: tuple(getattr(about, "size", ())) for name, about in saved.items()}
    try:
        tensors = state.allocate(shapes)
        random = {
            name: torch.zeros(shapes[name], dtype=torch.uint8)
            for name in random_state(world)
            if name in shapes
        }
        load({**tensors, **random}, storage_reader=reader, process_group=world.messages)
    except UserError:  # it says more than we could
        raise
    except (RuntimeError, KeyError, ValueError) as error:
        raise UserError(
            f"{path}: this checkpoint cannot be used: {str(error).splitlines()[0]}\n"
            f"  delete that folder to go on from the one before it, or from the start: `rm -r {shown(path)}`"
        ) from error
    state.loader.load_state_dict(marker.loader)
    state.step = marker.step
    _set_random_state(random, world, state.step)


def random_state(world: World) -> dict[str, Tensor]:
    """Return the state of this process's random numbers, by names of its own."""
    states = {f"random.{world.rank}.cpu": torch.get_rng_state()}
    if world.device.type != "cpu":
        states[f"random.{world.rank}.device"] = torch.get_device_module(world.device).get_rng_state()
    return states


def _set_random_state(states: dict[str, Tensor], world: World, step: int) -> None:
    if not states:  # there were fewer processes: numbers that none of them has drawn
        torch.manual_seed(torch.initial_seed() + step)
        return
    torch.set_rng_state(states[f"random.{world.rank}.cpu"])
    if (on_device := states.get(f"random.{world.rank}.device")) is not None:
        torch.get_device_module(world.device).set_rng_state(on_device)
