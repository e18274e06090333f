"""What tests in several folders import."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import torch

    from tune_recipes.models.config import ModelConfig
    from tune_recipes.models.decoder import Decoder

TUNE = [sys.executable, "-c", "import sys; from tune_cli.entry import main; sys.exit(main())"]
"""The `tune` command of this environment."""

TINY = [
    "shape.hidden_size=32",
    "shape.intermediate_size=64",
    "shape.num_hidden_layers=2",
    "shape.num_attention_heads=2",
    "shape.num_key_value_heads=1",
    "batch_size=4",
    "logging.log_every=1000",
]
"""Makes demo_full_finetune so small that a step takes milliseconds."""


class Finished(NamedTuple):
    """A `tune` command that has ended."""

    code: int
    out: str
    err: str
    modules: frozenset[str] = frozenset()
    """What was imported when it ended; empty if it was killed or ran in the test's own process."""

    @property
    def run_folder(self) -> Path:
        """The folder that it said it made."""
        return Path(next(line for line in self.err.splitlines() if line.startswith("Run folder: "))[12:])

    @property
    def losses(self) -> list[float]:
        """The loss of every step."""
        return losses(self.run_folder)


class RunTune(Protocol):
    """Runs `tune` with these words."""

    def __call__(self, *words: str | Path, env: dict[str, str] | None = None) -> Finished: ...


def losses(run_folder: Path) -> list[float]:
    """Return the losses in metrics.jsonl, after checking that its steps follow each other."""
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["loss"] for line in lines]


def stopped_by_signal(
    words: Sequence[str], folder: Path, *, after_steps: int, signum: int
) -> tuple[Path, Finished]:
    """Start a `tune run` in a folder and send it a signal when it has taken so many steps.

    Returns:
        The run folder, and how the command ended.
    """
    process = subprocess.Popen(
        [*TUNE, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        metrics = next(folder.glob("runs/*/metrics.jsonl"), None)
        if metrics and metrics.read_text().count("\n") >= after_steps:
            process.send_signal(signum)
            break
        time.sleep(0.002)
    out, err = process.communicate(timeout=300)
    return next((folder / "runs").iterdir()), Finished(process.returncode, out, err)


def random_model(
    config: "ModelConfig",
    *,
    seed: int,
    dtype: "torch.dtype | None" = None,
    device: "torch.device | str" = "cpu",
) -> "Decoder":
    """Return a model with random weights, float32 unless told."""
    import torch

    from tune_recipes.models.load import allocate_, init_weights_, meta_model

    model = meta_model(config, dtype=dtype or torch.float32)
    allocate_(model, device)
    init_weights_(model, seed=seed)
    return model
