"""Every reader stands damaged files for a few seconds; `python -m fuzz` gives it as long as one likes."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from fuzz import fuzz_gguf, fuzz_safetensors, fuzz_tokenizers, fuzz_torch_file, fuzzing
from fuzz.fuzzing import Finding, Target, fuzz, fuzz_target

from tune_checkpoint import CorruptFileError

SECONDS = 2
MODULES = (fuzz_torch_file, fuzz_safetensors, fuzz_gguf, fuzz_tokenizers)
TARGETS = tuple(target for module in MODULES for target in module.TARGETS)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_reader_reads_or_refuses_damaged_files(target: Target):
    assert fuzz_target(target, SECONDS) > 100


def crash(path: Path) -> None:
    if path.read_bytes() != b"sound":
        raise KeyError("no such thing")


def hang(path: Path) -> None:
    content = path.read_bytes()
    while content != b"sound":
        pass


def grow(path: Path) -> None:
    if path.read_bytes() != b"sound":
        bytearray(1 << 34)


@pytest.mark.parametrize(
    ("read", "message"),
    [(crash, "KeyError: 'no such thing'"), (hang, "TooSlow: more than 1 s"), (grow, "MemoryError: ")],
)
def test_what_is_wrong_with_a_reader_is_found_and_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, read: Callable[[Path], None], message: str
):
    monkeypatch.setattr(fuzzing, "SECONDS_PER_INPUT", 1)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(Finding, match=message) as caught:
        fuzz(read, [b"sound"], seconds=30, seed=5)
    kept = re.search(r"kept as (.*)\)$", str(caught.value))
    assert kept is not None
    assert Path(kept[1]).read_bytes() != b"sound"


def test_seed_that_cannot_be_read_is_no_seed():
    with pytest.raises(KeyError):
        fuzz(crash, [b"unsound"], seconds=1)


def test_search_goes_deeper_than_one_mutation_reaches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Each right letter is refused in another way, so that the next one is sought from there."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def read(path: Path) -> None:
        right = [found == letter for found, letter in zip(path.read_bytes(), b"fuzz", strict=False)]
        if right == [True] * 4:
            raise KeyError
        if any(right):
            raise CorruptFileError(f"{right} is right")

    with pytest.raises(Finding, match="KeyError"):
        fuzz(read, [b"abcd"], seconds=30, seed=1)
