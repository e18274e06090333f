"""What a stopped run goes on from: trained weights, optimizer, loader, random state. Whole or absent.

checkpoints/step_00000100/
    state.pt          everything, as torch.save writes it
    checkpoint.json   step and sha256; written last, so that a folder with it is whole
"""

import hashlib
import json
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tune_checkpoint import atomic_folder
from tune_recipes.catalog import shown
from tune_recipes.data.loader import Loader
from tune_recipes.errors import UserError
from tune_recipes.files import remove_folder, write_json
from tune_recipes.models.decoder import Decoder

_STATE = "state.pt"
_MARKER = "checkpoint.json"


@dataclass
class TrainState:
    """Everything that a step changes."""

    model: Decoder
    optimizer: torch.optim.Optimizer
    loader: Loader
    step: int = 0
    """Steps taken."""

    def state_dict(self) -> dict[str, Any]:
        """Return all of it as tensors and plain values."""
        return {
            "model": _trained_parameters(self.model),
            "optimizer": self.optimizer.state_dict(),
            "loader": self.loader.state_dict(),
            "step": self.step,
            "rng": _random_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        _load_parameters(self.model, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.loader.load_state_dict(state["loader"])
        self.step = state["step"]
        _set_random_state(state["rng"])


def save_checkpoint(folder: Path, state: TrainState, *, keep_last: int) -> Path:
    """Write `folder/step_<step>` and delete all but the last `keep_last`.

    Raises:
        OSError: It cannot be written; the older ones stay as they are.
    """
    path = folder / f"step_{state.step:08d}"
    with atomic_folder(path, force=True) as beside:
        torch.save(state.state_dict(), beside / _STATE)
        write_json(beside / _MARKER, {"step": state.step, "sha256": {_STATE: _sha256(beside / _STATE)}})
    for old in list_checkpoints(folder)[:-keep_last]:
        remove_folder(old)
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the whole checkpoints of a run, oldest first."""
    return sorted(path.parent for path in folder.glob(f"step_*/{_MARKER}"))


def load_latest(folder: Path, state: TrainState) -> Path | None:
    """Take the state of the latest checkpoint, if there is one.

    Raises:
        UserError: It is damaged, or belongs to another model.
    """
    for leftover in folder.glob(".step_*"):  # of a save or a removal that was killed
        shutil.rmtree(leftover)
    found = list_checkpoints(folder)
    if not found:
        return None
    path = found[-1]
    _verify(path)
    try:
        state.load_state_dict(torch.load(path / _STATE, map_location="cpu", weights_only=True))
    except UserError:  # it says more than we could
        raise
    except (RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(_damaged(path, str(error).splitlines()[0])) from error
    return path


def _verify(path: Path) -> None:
    try:
        expected = json.loads((path / _MARKER).read_text(encoding="utf-8"))["sha256"][_STATE]
        actual = _sha256(path / _STATE)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(_damaged(path, f"{type(error).__name__}: {error}")) from None
    if actual != expected:
        raise UserError(
            _damaged(
                path, f"{_STATE} is not what was written (sha256 {actual[:12]}..., not {expected[:12]}...)"
            )
        )


def _damaged(path: Path, why: str) -> str:
    return (
        f"{path}: this checkpoint cannot be used: {why}\n"
        f"  delete that folder to go on from the one before it, or from the start: `rm -r {shown(path)}`"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _trained_parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the parameters that training changes; a tied one stands under its first name."""
    return {
        name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad
    }


@torch.no_grad()
def _load_parameters(model: nn.Module, saved: dict[str, torch.Tensor]) -> None:
    trained = _trained_parameters(model)
    if trained.keys() != saved.keys():
        name = min(trained.keys() ^ saved.keys())
        raise ValueError(f"it holds other parameters than the model trains, {name} for one")
    for name, parameter in trained.items():
        if parameter.shape != saved[name].shape:
            raise ValueError(
                f"{name}: shape {list(saved[name].shape)}, the model's is {list(parameter.shape)}"
            )
        parameter.copy_(saved[name])


def _random_state() -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.accelerator.is_available():
        device = torch.accelerator.current_accelerator(check_available=True)
        states["accelerator"] = torch.get_device_module(device).get_rng_state()
    return states


def _set_random_state(states: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "accelerator" in states and torch.accelerator.is_available():
        torch.get_device_module(torch.accelerator.current_accelerator(check_available=True)).set_rng_state(
            states["accelerator"]
        )
