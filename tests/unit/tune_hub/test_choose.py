"""Which files training needs."""

import pytest

from tune_hub.choose import choose_files
from tune_hub.errors import RepositoryNotFoundError
from tune_hub.listing import RepoFile

SHARDS = {f"model-0000{n}-of-00002.safetensors" for n in (1, 2)} | {"model.safetensors.index.json"}
BIN = {f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)} | {"pytorch_model.bin.index.json"}
META = {"consolidated.00.pth", "params.json", "tokenizer.model"}
BESIDE = {"config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja", "LICENSE.txt"}
NEVER = {".gitattributes", "plot.png", "paper.pdf", "optimizer.pt", "training_args.bin", "trainer_state.json"}
OTHERS = {"onnx/model.onnx", "x.Q4_0.gguf", "tf_model.h5", "flax_model.msgpack", "rust_model.ot"}


def chosen(names: set[str], **patterns: list[str]) -> set[str]:
    files = [RepoFile(name, 1, "0" * 40) for name in names]
    return {file.path for file in choose_files("acme/x", files, **patterns)}


@pytest.mark.parametrize(
    "weights",
    [
        {"model.safetensors"},
        SHARDS,
        {"pytorch_model.bin"},
        BIN,
        {"consolidated.safetensors"},
        META,
        {"lit_model.pth"},
        {"x.gguf"},
        {"x-00001-of-00002.gguf", "x-00002-of-00002.gguf"},
        {"adapter_model.safetensors", "adapter_config.json"},
        {"adapter_model.bin", "adapter_config.json"},
    ],
    ids=lambda weights: min(weights),
)
def test_the_weights_are_taken_with_what_is_beside_them(weights: set[str]):
    assert chosen(weights | BESIDE | NEVER) == weights | BESIDE


@pytest.mark.parametrize("best", [{"model.safetensors"}, SHARDS, BIN], ids=lambda weights: min(weights))
def test_of_several_copies_one_is_taken(best: set[str]):
    original = {f"original/{name}" for name in META}
    worse = set() if best == BIN else BIN
    everything = best | worse | META - {"params.json", "tokenizer.model"} | original | OTHERS
    assert chosen(everything | BESIDE | NEVER) == best | BESIDE


def test_mistrals_own_copy_stays_away():
    assert chosen(SHARDS | {"consolidated.safetensors", "config.json"}) == SHARDS | {"config.json"}


def test_what_lies_under_original_alone_is_taken_with_its_tokenizer():
    original = {f"original/{name}" for name in META}
    assert chosen(original | {"config.json", "original/notes.md"}) == original | {"config.json"}


def test_several_quantizations_must_be_chosen_from():
    names = {"x.Q4_0.gguf", "x.Q8_0.gguf"}
    with pytest.raises(RepositoryNotFoundError, match="has 2 GGUF models"):
        chosen(names)
    assert chosen(names, include=["*Q8*"]) == {"x.Q8_0.gguf"}
    assert chosen(names, exclude=["*Q8*"]) == {"x.Q4_0.gguf"}


def test_patterns_add_and_take_away():
    names = SHARDS | BIN | OTHERS | {"config.json"}
    assert chosen(names, include=["onnx/*", "*.h5"]) == {"onnx/model.onnx", "tf_model.h5"}
    assert chosen(names, include=["*"], exclude=["*model*"]) == {"config.json", "x.Q4_0.gguf"}
    assert chosen(names, exclude=["*.safetensors"]) == BIN | {"config.json"}
    with pytest.raises(RepositoryNotFoundError, match=r"none of its 1 files fits: config\.json"):
        chosen({"config.json"}, include=["*.bin"])
