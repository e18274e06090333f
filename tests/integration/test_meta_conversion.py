"""Meta's checkpoints, held against transformers' own converter and against what Meta's program computes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from isolated import run_with
from meta_checkpoints import LLAMA3, SCALED, MetaModel, meta_logits, random_weights, write_meta
from tune_checkpoint import convert, open_checkpoint

REFERENCE = """
import inspect, json, sys
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.llama import convert_llama_weights_to_hf as converter

known = inspect.signature(converter.write_model).parameters
options = {"push_to_hub": False} if "push_to_hub" in known else {}
configs = {}
for job in json.loads(sys.argv[1]):
    converter.write_model(
        job["theirs"],
        job["src"],
        num_shards=job["num_parts"],
        llama_version=job["version"],
        vocab_size=96,
        **options,
    )
    model = AutoModelForCausalLM.from_pretrained(job["theirs"], torch_dtype="auto")
    model.save_pretrained(job["theirs"] + "-shards", max_shard_size="100KB")
    configs[job["name"]] = [AutoConfig.from_pretrained(job[key]).to_dict() for key in ("ours", "theirs")]
print("CONFIGS", json.dumps(configs))
"""


class Case(NamedTuple):
    """A checkpoint that both convert."""

    version: str
    """As transformers' converter is told; we find it out."""
    num_parts: int
    model: MetaModel
    transformers: str = "4.45.2"
    """The last but a few that has the converter; 3.1 and 3.2 need a later one."""

    @property
    def embedding(self) -> Any:
        return "rows" if self.version.startswith("3") else "columns"


CASES = {
    "llama1": Case("1", 1, MetaModel(dtype=torch.float16, params={"norm_eps": 1e-6})),
    "llama2": Case("2", 2, MetaModel()),
    "llama2-8-parts": Case("2", 8, MetaModel(n_kv_heads=8)),
    "code-llama": Case("2", 4, MetaModel(n_kv_heads=4, params={"rope_theta": 1e6})),
    "llama3": Case("3", 4, MetaModel(n_kv_heads=4, params=LLAMA3)),
    "llama3.1": Case("3.1", 2, MetaModel(n_kv_heads=2, params=SCALED), "4.47.1"),
    "llama3.2": Case(
        "3.2",
        1,
        MetaModel(n_kv_heads=2, is_tied=True, params=SCALED),
        "4.47.1",
    ),
}


class Converted(NamedTuple):
    """What both made."""

    folder: Path
    configs: dict[str, list[dict[str, Any]]]
    """Name of the case -> our config and theirs, as that transformers reads them."""

    def weights(self, name: str) -> tuple[Path, Path]:
        return self.folder / f"{name}-ours", self.folder / f"{name}-theirs"


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    folder = tmp_path_factory.mktemp("reference")
    jobs: dict[str, list[dict[str, Any]]] = {}
    for name, case in CASES.items():
        src = write_meta(
            folder / name, case.model, random_weights(case.model), case.num_parts, case.embedding
        )
        convert(src, folder / f"{name}-ours", dtype="bf16")  # theirs can make nothing else
        convert(src, folder / f"{name}-ours-shards", dtype="bf16", max_shard_size=100_000)
        jobs.setdefault(case.transformers, []).append(
            {
                "name": name,
                "src": str(src),
                "ours": str(folder / f"{name}-ours"),
                "theirs": str(folder / f"{name}-theirs"),
                "num_parts": case.num_parts,
                "version": case.version,
            }
        )
    configs: dict[str, list[dict[str, Any]]] = {}
    for version, todo in jobs.items():
        printed = run_with([f"transformers=={version}"], REFERENCE, json.dumps(todo))
        configs |= json.loads(printed.split("CONFIGS", 1)[1])
    return Converted(folder, configs)


@pytest.mark.parametrize("name", CASES)
def test_weights_are_those_of_transformers_converter(converted: Converted, name: str):
    ours, theirs = map(open_checkpoint, converted.weights(name))
    assert ours.keys() == theirs.keys()
    for tensor in theirs:
        assert (ours[tensor].dtype, ours[tensor].shape) == (theirs[tensor].dtype, theirs[tensor].shape)
        assert bytes(ours[tensor].buffer()) == bytes(theirs[tensor].buffer()), tensor


@pytest.mark.parametrize("name", CASES)
def test_shards_and_index_are_those_of_transformers(converted: Converted, name: str):
    ours, theirs = (
        json.loads((folder.parent / f"{folder.name}-shards" / "model.safetensors.index.json").read_text())
        for folder in converted.weights(name)
    )
    assert ours["weight_map"] == theirs["weight_map"]
    assert ours["metadata"]["total_size"] == theirs["metadata"]["total_size"]


@pytest.mark.parametrize("name", CASES)
def test_config_says_what_that_of_transformers_converter_does(converted: Converted, name: str):
    ours, theirs = converted.configs[name]
    for config in (ours, theirs):
        for key in ("_name_or_path", "transformers_version", "rope_parameters", "dtype"):
            config.pop(key, None)
    assert ours == theirs


@pytest.mark.parametrize("num_parts", [1, 2, 4])
@pytest.mark.parametrize("params", [{}, LLAMA3, SCALED], ids=["llama2", "llama3", "llama3.1"])
def test_converted_model_computes_what_metas_program_does(
    tmp_path: Path, params: dict[str, Any], num_parts: int
):
    model = MetaModel(n_kv_heads=2, params=params, dtype=torch.float32)
    weights = random_weights(model)
    write_meta(tmp_path / "src", model, weights, num_parts)
    convert(tmp_path / "src", tmp_path / "out")
    converted = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokens = torch.randint(96, (40,), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = converted(tokens[None]).logits[0]
    torch.testing.assert_close(logits, meta_logits(model, weights, tokens), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def smollm2_meta(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """SmolLM2 as one file in Meta's format."""
    folder = tmp_path_factory.mktemp("smollm2") / "meta"
    convert(smollm2, folder, to="meta")
    yield folder
    (folder / "consolidated.00.pth").unlink()  # half a gigabyte


def smollm2_model(folder: Path) -> MetaModel:
    params = json.loads((folder / "params.json").read_text())
    return MetaModel(
        dim=params["dim"],
        n_layers=params["n_layers"],
        n_heads=params["n_heads"],
        n_kv_heads=params["n_kv_heads"],
        head_dim=params["dim"] // params["n_heads"],
        is_tied=True,
        params=params,
    )


def test_smollm2_in_metas_format_computes_what_it_did(smollm2: Path, smollm2_meta: Path):
    weights = torch.load(smollm2_meta / "consolidated.00.pth", weights_only=True, mmap=True)
    model = AutoModelForCausalLM.from_pretrained(smollm2)
    tokens = torch.tensor([504, 3575, 282, 4649, 314])
    with torch.no_grad():
        expected = model(tokens[None]).logits[0]
    logits = meta_logits(smollm2_model(smollm2_meta), weights, tokens)
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)


def test_smollm2_comes_back_from_three_parts_bit_for_bit(smollm2: Path, smollm2_meta: Path, tmp_path: Path):
    weights = torch.load(smollm2_meta / "consolidated.00.pth", weights_only=True, mmap=True)
    write_meta(tmp_path / "parts", smollm2_model(smollm2_meta), weights, num_parts=3)
    convert(tmp_path / "parts", tmp_path / "back")
    before = load_file(smollm2 / "model.safetensors")
    after = load_file(tmp_path / "back" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    old, new = (json.loads((folder / "config.json").read_text()) for folder in (smollm2, tmp_path / "back"))
    lost = ("max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")
    assert {key: old[key] for key in old if key not in lost} == {
        key: new[key] for key in new if key not in lost
    }
