"""`tune download` of weights that must be converted before they can be trained, against a Hub over HTTP."""

import json
import subprocess
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from safetensors.numpy import load_file

from hub.server import Hub
from meta_checkpoints import MetaModel, write_random
from small_llama import small_weights, write_folder
from support import TUNE, RunTune
from tune_checkpoint import convert

WEIGHTS = Path("models/m-hf/model.safetensors")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


@pytest.fixture
def meta(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("files") / "meta"
    write_random(folder, MetaModel())
    return contents(folder) | {"README.md": b"# The model\n"}


@pytest.fixture
def ggufs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Two models, of which the second has twice the weights of the first."""
    folder, files = tmp_path_factory.mktemp("files"), {}
    for name, factor in (("a", 1), ("b", 2)):
        weights = {key: value * np.float32(factor) for key, value in small_weights().items()}
        (write_folder(folder / name, weights) / "tokenizer.json").unlink()
        convert(folder / name, folder / f"{name}-gguf", to="gguf")
        (path,) = (folder / f"{name}-gguf").glob("*.gguf")
        files[f"{name}.gguf"] = path.read_bytes()
    return files


def test_a_conversion_is_made_again_by_force_and_when_the_repository_changes(
    hub: Hub, tune_here: RunTune, meta: dict[str, bytes], tmp_path: Path
):
    hub.add("acme/m", meta)
    assert tune_here("download", "acme/m").code == 0
    before = WEIGHTS.stat().st_ino
    done = tune_here("download", "acme/m", "--force")
    assert done.code == 0, done.err
    assert WEIGHTS.stat().st_ino != before

    hub.add("acme/m", meta | {"README.md": b"# Another\n"})
    done = tune_here("download", "acme/m", "--force")
    assert done.code == 0, done.err
    assert Path("models/m-hf/README.md").read_text() == "# Another\n"


def test_a_conversion_takes_no_other_models_folder(hub: Hub, tune_here: RunTune, meta: dict[str, bytes]):
    files = contents(write_folder(Path("published"), small_weights()))
    hub.add("acme/m-hf", files)
    hub.add("acme/m", meta)
    assert tune_here("download", "acme/m-hf").code == 0
    for words in ([], ["--force"]):
        done = tune_here("download", "acme/m", *words)
        assert done.code == 2
        assert "models/m-hf: is where the converted model goes, and is no conversion of acme/m" in done.err
        assert "downloaded to models/m, but not converted" in done.err
        assert contents(Path("models/m-hf")) == files


def test_each_gguf_file_gives_its_own_weights(hub: Hub, tune_here: RunTune, ggufs: dict[str, bytes]):
    hub.add("acme/m", ggufs)
    first = tune_here("download", "acme/m", "--include", "a.gguf")
    assert first.code == 0, first.err
    weights = load_file(WEIGHTS)
    second = tune_here("download", "acme/m", "--include", "b.gguf")
    assert second.code == 0, second.err
    for name, doubled in load_file(WEIGHTS).items():
        np.testing.assert_array_equal(doubled, 2 * weights[name])


def test_of_several_gguf_models_one_must_be_chosen(hub: Hub, tune_here: RunTune, ggufs: dict[str, bytes]):
    hub.add("acme/m", ggufs)
    done = tune_here("download", "acme/m", "--include", "*.gguf")
    assert done.code == 2
    assert "has 2 GGUF models, and one can be converted: a.gguf, b.gguf" in done.err
    assert "tune download acme/m --include 'a.gguf'" in done.err
    assert not WEIGHTS.exists()


def test_converted_weights_that_are_gone_are_made_again(hub: Hub, tune_here: RunTune, meta: dict[str, bytes]):
    hub.add("acme/m", meta)
    assert tune_here("download", "acme/m").code == 0
    WEIGHTS.unlink()
    done = tune_here("download", "acme/m")
    assert done.code == 0, done.err
    assert WEIGHTS.exists()


def test_two_downloads_at_once_convert_once(
    hub: Hub, meta: dict[str, bytes], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
):
    hub.add("acme/m", meta)
    environment = hub.environment(tmp_path_factory.mktemp("home"))
    processes = [
        subprocess.Popen(
            [*TUNE, "download", "acme/m", "--json"],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert json.loads(out)["train_on"] == "models/m-hf"


@pytest.mark.parametrize("output_dir", [".", "sub/.."])
def test_the_current_folder_may_be_filled(
    hub: Hub, tune_here: RunTune, meta: dict[str, bytes], tmp_path: Path, monkeypatch, output_dir: str
):
    hub.add("acme/m", meta)
    (tmp_path / "here" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    done = tune_here("download", "acme/m", "--output-dir", output_dir)
    assert done.code == 0, done.err
    assert (tmp_path / "here-hf" / "model.safetensors").exists()


def test_a_folder_that_nothing_can_be_beside_is_refused_before_anything_is_fetched(
    hub: Hub, tune_here: RunTune, meta: dict[str, bytes]
):
    hub.add("acme/m", meta)
    done = tune_here("download", "acme/m", "--output-dir", "/")
    assert done.code == 2
    assert "/: nothing can be beside it" in done.err
    assert hub.requests == []


@pytest.mark.parametrize(
    ("patterns", "lacks"),
    [
        (["config.json"], "weights"),
        (["model-00001-*", "*.json"], "model-00002-of-00002.safetensors"),
        (["model-00001-*", "config.json"], "model.safetensors.index.json, model-00002-of-00002.safetensors"),
        (["model*"], "config.json"),
    ],
)
def test_what_cannot_be_trained_says_what_it_lacks(
    hub: Hub, tune_here: RunTune, patterns: list[str], lacks: str
):
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index = {"metadata": {"total_size": 2}, "weight_map": {"x": shards[0], "y": shards[1]}}
    files = {"config.json": b"{}", "tokenizer.json": b"{}", **dict.fromkeys(shards, b"w")}
    hub.add("acme/m", files | {"model.safetensors.index.json": json.dumps(index).encode()})
    words = [word for pattern in patterns for word in ("--include", pattern)]
    done = tune_here("download", "acme/m", *words)
    assert done.code == 0, done.err
    assert f"It cannot be trained yet; the folder lacks: {lacks}\n" in done.out
    assert "tune run" not in done.out
    result = json.loads(tune_here("download", "acme/m", *words, "--json").out)
    assert result["train_on"] is None
    assert ", ".join(result["missing"]) == lacks
    assert "tune run" in tune_here("download", "acme/m").out


def test_a_cache_that_holds_a_part_of_a_model_says_so_without_the_network(
    hub: Hub, tune_here: RunTune, set_environment
):
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index = {"metadata": {"total_size": 2}, "weight_map": {"x": shards[0], "y": shards[1]}}
    files = {"config.json": b"{}", **dict.fromkeys(shards, b"w")}
    hub.add("acme/m", files | {"model.safetensors.index.json": json.dumps(index).encode()})
    huggingface_hub.snapshot_download("acme/m", ignore_patterns=shards[1:])
    set_environment(HF_HUB_OFFLINE="1")
    done = tune_here("download", "acme/m")
    assert done.code == 0, done.err
    assert f"It cannot be trained yet; the folder lacks: {shards[1]}\n" in done.out
    assert "unset HF_HUB_OFFLINE" in done.out
    assert "tune run" not in done.out
