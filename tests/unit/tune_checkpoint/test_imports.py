"""What importing and using the package loads."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import tune_checkpoint

HEAVY = ("torch", "numpy", "ml_dtypes", "gguf", "safetensors", "msgspec", "transformers", "tokenizers")


def loaded_after(code: str, *arguments: str) -> set[str]:
    """Which of the heavy packages a fresh process has after running `code`."""
    report = f"import sys; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    command = [sys.executable, "-c", f"{code}\n{report}", *arguments]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def test_import_loads_nothing():
    assert loaded_after("import tune_checkpoint") == set()


def test_errors_load_nothing():
    assert loaded_after("from tune_checkpoint import CheckpointError") == set()


def test_headers_are_read_without_numpy(write_llama: Callable[..., Any]):
    code = """
import sys
from tune_checkpoint import open_checkpoint, plan_conversion
open_checkpoint(sys.argv[1])
plan_conversion(sys.argv[1])
"""
    loaded = loaded_after(code, str(write_llama().path))
    assert loaded == {"msgspec"}


def test_conversion_needs_no_torch(write_llama: Callable[..., Any], tmp_path: Any):
    code = "import sys; from tune_checkpoint import convert; convert(sys.argv[1], sys.argv[2])"
    loaded = loaded_after(code, str(write_llama(quant="Q8_0").path), str(tmp_path / "out"))
    assert loaded == {"msgspec", "numpy", "gguf"}


def test_every_public_name_is_there():
    for name in tune_checkpoint.__all__:
        assert getattr(tune_checkpoint, name).__name__ == name
    assert set(tune_checkpoint.__all__) <= set(dir(tune_checkpoint))


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        tune_checkpoint.nonsense  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
