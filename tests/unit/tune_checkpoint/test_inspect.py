"""What `inspect` says of checkpoints of every kind, from headers alone."""

import json
import re
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from small_llama import (
    CONFIG,
    FEED_FORWARD,
    HEADS,
    HIDDEN,
    KV_HEADS,
    LAYERS,
    VOCAB,
    small_weights,
    write_folder,
)

from tune_checkpoint import CheckpointNotFoundError, CorruptFileError, UnsupportedCheckpointError
from tune_checkpoint._inspect import DtypeInfo, FileInfo, Inspection, TensorInfo, inspect
from tune_checkpoint.facts import ModelSizes
from tune_checkpoint.folding import fold
from tune_checkpoint.text import count_text, inspection_lines, size_text

WriteLlama = Callable[..., Any]
TIMES = "\N{MULTIPLICATION SIGN}"

SIZES = ModelSizes(LAYERS, HIDDEN, FEED_FORWARD, HEADS, KV_HEADS, HIDDEN // HEADS, VOCAB, 64)


def num_elements(weights: dict[str, np.ndarray]) -> int:
    return sum(array.size for array in weights.values())


def test_hugging_face_folder_is_described(tmp_path: Path):
    weights = small_weights(np.float16)
    weights["model.norm.weight"] = weights["model.norm.weight"].astype(np.float32)
    found = inspect(write_folder(tmp_path, weights))
    assert (found.kind, found.format) == ("hf", "safetensors")
    assert (found.architecture, found.architecture_from) == ("LlamaForCausalLM", "config.json")
    assert found.sizes == SIZES
    assert found.num_parameters == num_elements(weights)
    assert found.nbytes == sum(array.nbytes for array in weights.values())
    halves = num_elements(weights) - HIDDEN
    assert found.dtypes == (
        DtypeInfo("F16", len(weights) - 1, halves, 2 * halves),
        DtypeInfo("F32", 1, HIDDEN, 4 * HIDDEN),
    )
    assert found.tied == (("lm_head.weight", "model.embed_tokens.weight"),)
    assert [file.name for file in found.files] == ["model.safetensors", "config.json", "tokenizer.json"]
    assert {t.name: t.shape for t in found.tensors} == {name: array.shape for name, array in weights.items()}
    assert found.adapter is None


def test_shards_are_named_and_a_shard_can_be_looked_at_alone(tmp_path: Path):
    weights = small_weights()
    whole = inspect(write_folder(tmp_path, weights, num_shards=3))
    assert [file.num_tensors for file in whole.files if file.num_tensors] == [10, 10, 9]
    assert whole.num_parameters == num_elements(weights)
    shard = inspect(tmp_path / "model-00002-of-00003.safetensors")
    assert (shard.kind, shard.architecture) == ("hf", "LlamaForCausalLM")
    names = list(weights)[1::3]
    assert {tensor.name for tensor in shard.tensors} == set(names)
    assert shard.num_parameters == num_elements({name: weights[name] for name in names})
    file = tmp_path / "model-00002-of-00003.safetensors"
    assert shard.files == (FileInfo(file.name, file.stat().st_size, 10),)


def test_weights_under_two_names_count_once(tmp_path: Path):
    weights = {name: torch.from_numpy(array) for name, array in small_weights().items()}
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    torch.save(weights, tmp_path / "pytorch_model.bin")
    found = inspect(tmp_path)
    assert (found.kind, found.format) == ("hf", "torch")
    assert found.tied == (("lm_head.weight", "model.embed_tokens.weight"),)
    assert found.num_parameters == num_elements(small_weights())
    assert found.nbytes == 4 * found.num_parameters


def test_a_head_that_is_stored_although_tied_is_no_parameter(tmp_path: Path):
    weights = small_weights(has_head=True)
    found = inspect(write_folder(tmp_path, weights))
    assert found.num_parameters == num_elements(weights) - VOCAB * HIDDEN
    assert found.nbytes == 4 * num_elements(weights)
    untied = inspect(write_folder(tmp_path, weights, CONFIG | {"tie_word_embeddings": False}))
    assert untied.num_parameters == num_elements(weights)


def test_constants_are_no_parameters(tmp_path: Path):
    weights = small_weights()
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
    found = inspect(write_folder(tmp_path, weights | extra))
    assert found.num_parameters == num_elements(weights)
    assert len(found.tensors) == len(weights) + 1


@pytest.mark.parametrize("quant", ["F32", "Q8_0", "Q4_1"])
def test_gguf_file_is_described_as_the_gguf_package_reads_it(write_llama: WriteLlama, quant: str):
    file = write_llama(quant=quant)
    found = inspect(file.path)
    assert (found.kind, found.format) == ("gguf", "gguf")
    assert (found.architecture, found.architecture_from) == ("llama", "metadata")
    assert found.sizes == ModelSizes(2, 64, 96, 4, 2, 16, 300, 512)
    assert found.num_parameters == sum(array.size for array in file.tensors.values())
    reader = gguf.GGUFReader(file.path)
    assert {t.name: (t.dtype, t.nbytes) for t in found.tensors} == {
        tensor.name: (tensor.tensor_type.name, tensor.n_bytes) for tensor in reader.tensors
    }
    assert sum(info.nbytes for info in found.dtypes) == found.nbytes


def test_meta_shards_are_counted_together(tmp_path: Path):
    for number in range(2):
        shard = {
            "tok_embeddings.weight": torch.zeros(VOCAB, HIDDEN // 2),
            "layers.0.attention.wq.weight": torch.zeros(HIDDEN // 2, HIDDEN),
            "norm.weight": torch.zeros(HIDDEN),
            "rope.freqs": torch.zeros(4),
        }
        torch.save(shard, tmp_path / f"consolidated.{number:02d}.pth")
    params = {"dim": HIDDEN, "n_layers": 1, "n_heads": HEADS, "vocab_size": -1, "norm_eps": 1e-5}
    (tmp_path / "params.json").write_text(json.dumps(params))
    found = inspect(tmp_path)
    assert (found.kind, found.architecture, found.architecture_from) == ("meta", "Llama", "params.json")
    assert found.num_parameters == VOCAB * HIDDEN + HIDDEN * HIDDEN + HIDDEN
    assert found.sizes == ModelSizes(1, HIDDEN, None, HEADS, None, HIDDEN // HEADS)
    assert [file.name for file in found.files][:2] == ["consolidated.00.pth", "consolidated.01.pth"]


def test_litgpt_folder_takes_its_sizes_from_its_yaml(tmp_path: Path):
    names = ("transformer.wte.weight", "transformer.h.0.attn.qkv.weight")
    torch.save({name: torch.zeros(VOCAB, HIDDEN) for name in names}, tmp_path / "lit_model.pth")
    (tmp_path / "model_config.yaml").write_text(
        "name: small\nn_layer: 1\nn_embd: 32\nhf_config:\n  n_layer: 7\npadded_vocab_size: 40\n"
    )
    found = inspect(tmp_path)
    assert (found.kind, found.architecture, found.architecture_from) == (
        "litgpt",
        "small",
        "model_config.yaml",
    )
    assert (found.sizes.num_hidden_layers, found.sizes.vocab_size) == (1, VOCAB)


def test_what_has_no_configuration_is_guessed_from_names(tmp_path: Path):
    save_file(small_weights(), tmp_path / "some.safetensors")
    found = inspect(tmp_path / "some.safetensors")
    assert (found.architecture, found.architecture_from) == ("Llama-like", "tensor names")
    assert (found.sizes.num_hidden_layers, found.sizes.vocab_size) == (LAYERS, VOCAB)
    save_file({"x": np.zeros(3)}, tmp_path / "other.safetensors")
    assert inspect(tmp_path / "other.safetensors").architecture is None


def write_adapter(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    config = {
        "peft_type": "LORA",
        "r": 8,
        "lora_alpha": 16,
        "use_rslora": True,
        "target_modules": ["v_proj", "q_proj"],
        "base_model_name_or_path": "some/model",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    matrices = {
        f"{prefix}.lora_A.weight": np.zeros((8, HIDDEN), np.float32),
        f"{prefix}.lora_B.weight": np.zeros((HIDDEN, 8), np.float32),
    }
    save_file(matrices, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize("name", ["", "adapter_model.safetensors"])
def test_adapter_is_looked_at_happily(tmp_path: Path, name: str):
    found = inspect(write_adapter(tmp_path) / name)
    assert (found.kind, found.num_parameters) == ("adapter", 16 * HIDDEN)
    adapter = found.adapter
    assert adapter is not None
    assert (adapter.type, adapter.rank, adapter.alpha, adapter.variants) == ("LORA", 8, 16.0, ("rslora",))
    assert (adapter.targets, adapter.base_model) == (("q_proj", "v_proj"), "some/model")
    assert "adapter       LORA rslora, rank 8, alpha 16, changes q_proj, v_proj, for some/model" in (
        inspection_lines(found)
    )


def test_nonsense_in_a_configuration_is_not_repeated(tmp_path: Path):
    config = CONFIG | {"hidden_size": "big", "architectures": 7, "model_type": None, "num_hidden_layers": -1}
    found = inspect(write_folder(tmp_path, small_weights(), config))
    assert (found.architecture, found.architecture_from) == ("Llama-like", "tensor names")
    assert (found.sizes.hidden_size, found.sizes.num_hidden_layers) == (HIDDEN, LAYERS)


def test_what_cannot_be_read_is_an_error_that_names_it(tmp_path: Path):
    with pytest.raises(CheckpointNotFoundError, match="nowhere: no such file or folder"):
        inspect(tmp_path / "nowhere")
    with pytest.raises(UnsupportedCheckpointError, match="no checkpoint that can be read"):
        inspect(tmp_path)
    (write_folder(tmp_path, small_weights()) / "config.json").write_text("{")
    with pytest.raises(CorruptFileError, match=r"config.json: not valid JSON"):
        inspect(tmp_path)


def test_result_is_json_and_comes_back_from_it(tmp_path: Path):
    found = inspect(write_folder(tmp_path, small_weights()))
    assert msgspec.json.decode(msgspec.json.encode(found), type=Inspection) == found


def test_text_of_a_small_model(tmp_path: Path):
    lines = inspection_lines(inspect(write_folder(tmp_path, small_weights(ml_dtypes.bfloat16))))
    assert lines[0] == str(tmp_path)
    assert "\n".join(lines[1:]) == (
        """\
kind          Hugging Face folder (safetensors)
architecture  LlamaForCausalLM
parameters    24.5K (24,544)
weights       49.1 kB in 1 file, 29 tensors
types         BF16 49.1 kB (24.5K)
sizes         layers 3, hidden 32, feed-forward 48, heads 4, key-value heads 2,
              head size 8, vocabulary 40, context 64
tied          lm_head.weight = model.embed_tokens.weight
files         model.safetensors (52.0 kB), config.json, tokenizer.json

  model.embed_tokens.weight                            [40, 32]  BF16
  model.layers.{0..2}.input_layernorm.weight           [32]      BF16  *3
  model.layers.{0..2}.mlp.down_proj.weight             [32, 48]  BF16  *3
  model.layers.{0..2}.mlp.gate_proj.weight             [48, 32]  BF16  *3
  model.layers.{0..2}.mlp.up_proj.weight               [48, 32]  BF16  *3
  model.layers.{0..2}.post_attention_layernorm.weight  [32]      BF16  *3
  model.layers.{0..2}.self_attn.k_proj.weight          [16, 32]  BF16  *3
  model.layers.{0..2}.self_attn.o_proj.weight          [32, 32]  BF16  *3
  model.layers.{0..2}.self_attn.q_proj.weight          [32, 32]  BF16  *3
  model.layers.{0..2}.self_attn.v_proj.weight          [16, 32]  BF16  *3
  model.norm.weight                                    [32]      BF16""".replace("*", TIMES)
    )


def test_tensors_can_be_listed_one_by_one(tmp_path: Path):
    found = inspect(write_folder(tmp_path, small_weights()))
    lines = inspection_lines(found, tensors=True)
    for name, array in small_weights().items():
        assert any(line.split() == [name, *str(list(array.shape)).split(), "F32"] for line in lines)


def test_a_7b_model_takes_a_screen_and_milliseconds(tmp_path: Path):
    hidden, inner, layers, vocab = 4096, 11008, 32, 32000
    layer = {
        "input_layernorm.weight": [hidden],
        "post_attention_layernorm.weight": [hidden],
        **{f"self_attn.{x}_proj.weight": [hidden, hidden] for x in "qkvo"},
        "mlp.gate_proj.weight": [inner, hidden],
        "mlp.up_proj.weight": [inner, hidden],
        "mlp.down_proj.weight": [hidden, inner],
    }
    shapes = {f"model.layers.{n}.{name}": shape for n in range(layers) for name, shape in layer.items()}
    shapes |= {"model.embed_tokens.weight": [vocab, hidden], "lm_head.weight": [vocab, hidden]}
    shapes["model.norm.weight"] = [hidden]
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)  # no byte of the weights takes room
    started = time.process_time()
    lines = inspection_lines(inspect(tmp_path))
    assert time.process_time() - started < 0.25
    assert "parameters    6.74B (6,738,415,616)" in lines
    assert len(lines) <= 25
    assert max(map(len, lines)) <= 100
    up = ["model.layers.{0..31}.mlp.up_proj.weight", "[11008,", "4096]", "BF16", f"{TIMES}32"]
    assert up in [line.split() for line in lines]


@pytest.mark.parametrize(
    ("number", "size", "count"),
    [
        (0, "0 bytes", "0"),
        (999, "999 bytes", "999"),
        (1000, "1.0 kB", "1.00K"),
        (999_949, "999.9 kB", "1.00M"),
        (134_515_008, "134.5 MB", "135M"),
        (1_234_567_890, "1.2 GB", "1.23B"),
        (999_960_000, "1.0 GB", "1.00B"),
        (2 * 10**15, "2000.0 TB", "2,000.00T"),
    ],
)
def test_numbers_are_short(number: int, size: str, count: str):
    assert (size_text(number), count_text(number)) == (size, count)


def unfolded(name: str) -> list[str]:
    """Every name that a folded one stands for."""
    text = re.split(r"(\{[^}]*\})", name)
    choices: list[list[str]] = []
    for piece in text:
        if not piece.startswith("{"):
            choices.append([piece])
            continue
        numbers: list[str] = []
        for spelled in piece[1:-1].split(","):
            first, _, last = spelled.partition("..")
            numbers += [str(n) for n in range(int(first), int(last or first) + 1)]
        choices.append(numbers)
    return ["".join(choice) for choice in product(*choices)]


@given(
    st.sets(st.integers(0, 30), min_size=1, max_size=6),
    st.sets(st.integers(0, 9), min_size=1, max_size=4),
    st.sampled_from(["mlp", "attn"]),
)
def test_folded_names_stand_for_all_that_they_were_made_of(layers: set[int], experts: set[int], kind: str):
    names = [f"model.{n}.{kind}.{m}.w" for n in layers for m in experts]
    (group,) = fold((name, None) for name in names)
    assert group.count == len(names)
    assert group.members == tuple(range(len(names)))
    if ",..," not in group.name:  # the middle of many ranges is left out
        assert sorted(unfolded(group.name)) == sorted(names)


def test_only_what_is_alike_is_folded():
    things = [("h.0.w", "F32"), ("h.1.w", "F16"), ("h.2.w", "F32"), ("h.3.b", "F32"), ("w", "F32")]
    assert [(group.name, group.count) for group in fold(things)] == [
        ("h.{0,2}.w", 2),
        ("h.1.w", 1),
        ("h.3.b", 1),
        ("w", 1),
    ]


def test_a_fold_with_holes_says_so():
    (group,) = fold((f"h.{n}.e.{m}.w", None) for n, m in [(0, 0), (0, 1), (1, 0)])
    assert group.name == "h.{0..1}.e.{0..1}.w (not all)"


def test_tensor_infos_name_their_file(tmp_path: Path):
    write_folder(tmp_path, small_weights(), num_shards=2)
    first = inspect(tmp_path).tensors[0]
    assert isinstance(first, TensorInfo)
    assert first.file == "model-00001-of-00002.safetensors"
