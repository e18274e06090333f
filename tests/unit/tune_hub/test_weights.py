"""One model's weights and no other's are taken, and a download without weights is none."""

import re
from fnmatch import fnmatchcase

import pytest

from tune_hub.choose import choose_files
from tune_hub.errors import RepositoryNotFoundError
from tune_hub.listing import RepoFile
from tune_hub.weights import has_safetensors

BESIDE = ["LICENSE", "README.md", "config.json", "tokenizer.json"]
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
INDEX = "model.safetensors.index.json"
PARTS = ["a-q4-00001-of-00002.gguf", "a-q4-00002-of-00002.gguf"]


def chosen(names: list[str], **patterns: list[str]) -> list[str]:
    files = [RepoFile(name, 1, "0" * 40) for name in names]
    return [file.path for file in choose_files("acme/x", files, **patterns)]


def refusal(names: list[str]) -> str:
    with pytest.raises(RepositoryNotFoundError) as caught:
        chosen(names)
    return str(caught.value)


@pytest.mark.parametrize(
    ("weights", "others"),
    [
        ([*SHARDS, INDEX], ["adapter_model.safetensors", "adapter_model.bin", "tf_model.h5"]),
        (["model.safetensors"], ["adapter_model.safetensors", "onnx/model.onnx", "x.gguf", *SHARDS]),
        (["pytorch_model.bin"], [INDEX, "adapter_model.safetensors", "optimizer.pt"]),
        (["consolidated.00.pth", "consolidated.01.pth"], ["adapter_model.bin"]),
        (["model.fp16.safetensors"], ["adapter_model.safetensors"]),
        (["model.safetensors-00001-of-00002.safetensors", "mtp.safetensors", INDEX], ["x.gguf"]),
        (["original/consolidated.00.pth", "original/params.json", "original/tokenizer.model"], ["x.gguf"]),
        (["adapter_model.safetensors"], ["adapter_model.bin"]),
        (["adapter_model.bin"], []),
        (["x.gguf"], ["adapter_model.safetensors"]),
        (PARTS, []),
        (["Q4/x-00001-of-00002.gguf", "Q4/x-00002-of-00002.gguf"], ["unet/model.onnx"]),
    ],
)
def test_one_copy_of_the_weights_is_taken_with_what_is_beside(weights: list[str], others: list[str]):
    assert chosen([*others, *weights, *BESIDE]) == sorted([*weights, *BESIDE])


def test_a_whole_model_comes_without_the_configuration_of_an_adapter_beside_it():
    adapter = ["adapter_config.json", "adapter_model.safetensors"]
    assert chosen(adapter) == adapter
    assert chosen([*adapter, *SHARDS, "config.json"]) == ["config.json", *SHARDS]


@pytest.mark.parametrize(
    "names", [["tf_model.h5"], ["onnx/model.onnx"], ["model.pt"], ["unet/model.safetensors", "vae/x.bin"]]
)
def test_weights_that_cannot_be_trained_are_named_and_not_passed_over(names: list[str]):
    said = refusal([*names, *BESIDE, INDEX, "training_args.bin"])
    assert said.startswith(f"acme/x: has no weights where training looks for them, but others: {names[0]}")
    assert "training_args" not in said
    (include,) = re.findall("--include '(.*)'", said)
    assert chosen([*names, *BESIDE], include=[include]) == names[:1]


@pytest.mark.parametrize("names", [BESIDE, [*BESIDE, INDEX], [*BESIDE, "optimizer.pt"]])
def test_a_repository_without_weights_is_refused(names: list[str]):
    assert "is of a model's weights: LICENSE" in refusal(names)


def test_what_is_beside_the_weights_can_be_had_alone():
    assert chosen(["model.safetensors", *BESIDE], exclude=["*.safetensors"]) == BESIDE


@pytest.mark.parametrize(
    "names",
    [
        ["model.fp16.safetensors", "model.fp32.safetensors"],
        ["model.fp16.safetensors", "model.fp32.safetensors", "model.fp16.safetensors.index.json"],
        [*SHARDS, "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"],
        [*SHARDS, INDEX, "model-00001-of-00003.safetensors"],
        ["pytorch_model-00001-of-00002.bin", "pytorch_model-00001-of-00003.bin"],
        ["a[1].safetensors", "a[2].safetensors"],
    ],
)
def test_several_sets_of_weights_are_refused_and_the_hint_leaves_one(names: list[str]):
    said = refusal([*names, *BESIDE])
    assert "has 2 sets of weights" in said
    excluded = re.findall("--exclude '(.*?)'", said)
    left = [name for name in names if not any(fnmatchcase(name, pattern) for pattern in excluded)]
    assert 0 < len(left) < len(names)
    assert chosen([*names, *BESIDE], exclude=excluded) == sorted([*left, *BESIDE])


@pytest.mark.parametrize(
    "others", [["a-q4-k.gguf"], ["a-q8-00001-of-00002.gguf", "a-q8-00002-of-00002.gguf"], ["Q8/a.gguf"]]
)
def test_the_hint_for_several_gguf_models_is_one_pattern_a_model(others: list[str]):
    said = refusal([*PARTS, *others, *BESIDE])
    assert "has 2 GGUF models: a-q4-*-of-00002.gguf, " in said
    (include,) = re.findall("--include '(.*)'", said)
    assert chosen([*PARTS, *others, *BESIDE], include=[include]) == PARTS


def test_an_index_is_no_weights():
    assert not has_safetensors([INDEX, "config.json"])
    assert all(
        has_safetensors([name]) for name in (*SHARDS, "model.safetensors", "adapter_model.safetensors")
    )
    assert not has_safetensors(["model.fp16.safetensors"])
