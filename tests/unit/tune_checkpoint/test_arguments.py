"""Sizes, output folders and progress, as both command lines have them."""

from pathlib import Path

import pytest

from tune_checkpoint.arguments import ArgumentError, default_output_dir, parse_size
from tune_checkpoint.progress import progress_text


def test_progress_text_has_rate_and_time_left():
    assert progress_text("x", 0, 0, 0) == "x  100%  0 bytes of 0 bytes  0 bytes/s"
    text = progress_text("converting", 10**9, 4 * 10**9, 2.0)
    assert text == "converting   25%  1.0 GB of 4.0 GB  500.0 MB/s  6.0 s left"
    assert progress_text("x", 10**6, 4 * 10**9, 2.0).endswith("  2:13:18 left")


@pytest.mark.parametrize(
    ("src", "to", "quant", "expected"),
    [
        ("some/Llama-3.1-8B", "hf", None, "Llama-3.1-8B-hf"),
        ("x/small-00001-of-00003.gguf", "hf", None, "small-hf"),
        ("small.Q4_1.gguf", "meta", None, "small.Q4_1-meta"),
        ("llama/pytorch_model.bin", "hf", None, "llama-hf"),
        ("my-model/", "gguf", "Q8_0", "my-model-gguf-q8_0"),
        ("lora", "merged", None, "lora-merged"),
        ("llama-hf", "gguf", "q8_0", "llama-gguf-q8_0"),
    ],
)
def test_output_folder_is_named_after_the_source(src: str, to: str, quant: str | None, expected: str):
    assert default_output_dir(src, to, quant) == Path(expected)


def test_output_folder_of_the_current_one_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert default_output_dir(".", "hf") == Path("here-hf")
    assert default_output_dir("..", "hf") == Path(f"{tmp_path.name}-hf")
    (tmp_path / "odd.bin").mkdir()
    assert default_output_dir(tmp_path / "odd.bin", "hf") == Path("odd.bin-hf")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5GB", 5 * 10**9),
        ("5g", 5 * 10**9),
        ("500 MB", 5 * 10**8),
        ("1.5GiB", 3 * 2**29),
        ("7", 7),
        ("2kib", 2048),
    ],
)
def test_sizes_are_read(text: str, size: int):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "5 XB", "1e9", "5GB!", "i", "3i", "9" * 400])
def test_what_is_no_size_is_refused(text: str):
    with pytest.raises(ArgumentError, match="is no size"):
        parse_size(text)
