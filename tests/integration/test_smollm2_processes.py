"""The real model in one, two and four processes: the same losses, the same exports."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from support import TUNE, losses

RECORDS_A_STEP = 4
SAME = (*("data.format=chat", "max_steps=3", "schedule.name=constant", "dtype=fp32", "seed=3"),)
CLOSE = 1e-5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve chats whose lengths differ, so that the processes have unequal numbers of target tokens."""
    path = tmp_path_factory.mktemp("data") / "chats.jsonl"
    with path.open("w") as file:
        for number in range(12):
            turns = [
                {"role": "user", "content": f"Count to {number + 1}."},
                {"role": "assistant", "content": ", ".join(str(i + 1) for i in range(number + 1))},
            ]
            file.write(json.dumps({"messages": turns}) + "\n")
    return path


def trained(words: tuple[str, ...], num_processes: int, folder: Path) -> Path:
    """Train three steps of four records and return the run folder."""
    folder.mkdir()
    split = (f"batch_size={RECORDS_A_STEP // num_processes}", "--nproc", str(num_processes))
    done = subprocess.run(
        [*TUNE, "run", *words, *SAME, *split], cwd=folder, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return next((folder / "runs").iterdir())


def assert_same(run: Path, one: Path, name: str) -> None:
    assert losses(run) == pytest.approx(losses(one), abs=CLOSE, rel=0)
    mine, theirs = load_file(run / "final" / name), load_file(one / "final" / name)
    assert mine.keys() == theirs.keys()
    for key, tensor in mine.items():
        torch.testing.assert_close(tensor, theirs[key], atol=CLOSE, rtol=0, msg=key)


def test_lora_in_two_and_four_processes_equals_lora_in_one(smollm2: Path, data: Path, tmp_path: Path):
    # AdamW moves a weight whose gradient is nothing but rounding as far as any other: not to be compared.
    plain = ("optim.name=sgd", "optim.lr=0.1")
    words = ("lora_finetune", f"model={smollm2}", f"data.path={data}", *plain)
    runs = [trained(words, n, tmp_path / str(n)) for n in (1, 2, 4)]
    assert losses(runs[0])[2] < losses(runs[0])[0] - 0.01
    for run in runs[1:]:
        assert_same(run, runs[0], "adapter_model.safetensors")


def test_all_weights_in_two_and_four_processes_equal_those_of_one(smollm2: Path, data: Path, tmp_path: Path):
    words = ("full_finetune", f"model={smollm2}", f"data.path={data}", "optim.lr=2e-5")
    one = trained(words, 1, tmp_path / "one")
    for num_processes in (2, 4):
        more = trained(words, num_processes, tmp_path / "more")
        assert_same(more, one, "model.safetensors")
        shutil.rmtree(tmp_path / "more")
    shutil.rmtree(tmp_path)  # a gigabyte
