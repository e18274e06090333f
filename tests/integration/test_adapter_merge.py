"""Merged adapters, held against peft's own merge and the logits of the model with its adapter."""

import json
import subprocess
import sys
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from tune_checkpoint import convert
from tune_checkpoint.peft.merge import merge_adapter

IDS = torch.arange(24).reshape(2, 12) % 60
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ONE_BIT = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-7}


def save_llama(
    folder: Path, dtype: torch.dtype = torch.float32, *, shard: str = "5GB", **options: Any
) -> Path:
    """Write a small random Llama model."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        **options,
    )
    model: Any = LlamaForCausalLM(config)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    return folder


def save_adapter(folder: Path, base: Path, *, as_bin: bool = False, **options: Any) -> Path:
    """Write an adapter of which everything is random that is trained."""
    torch.manual_seed(1)
    fields: dict[str, Any] = {"r": 4, "lora_alpha": 6, "target_modules": LINEAR, "task_type": "CAUSAL_LM"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tied weights, and of embeddings that are stored
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base), LoraConfig(**deepcopy(fields | options))
        )
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "magnitude" in name:
                parameter.data *= 1 + 0.1 * torch.randn_like(parameter)
            elif parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.1)
        model.save_pretrained(str(folder))
    if as_bin:
        # what older versions of peft wrote
        from safetensors.torch import load_file

        torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
        (folder / "adapter_model.safetensors").unlink()
    return folder


def with_peft(base: Path, adapter: Path) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The logits of the model with its adapter beside it, and the weights that peft makes of both."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter)).eval()
        logits = model(IDS).logits
        return logits, model.merge_and_unload().state_dict()


def loaded(folder: Path) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The logits and weights of a merged folder, in which nothing is missing and nothing too much."""
    found: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    model, info = found
    assert not any(info.values())
    with torch.no_grad():
        return model.eval()(IDS).logits, model.state_dict()


OPTIONS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "dora-rslora": {"use_dora": True, "use_rslora": True},
    "rank-one": {"r": 1, "lora_alpha": 1},
    "few-layers": {"layers_to_transform": [1], "layers_pattern": "layers"},
    "regex": {"target_modules": r".*\.1\..*(q|down)_proj"},
    "excluded": {"exclude_modules": r".*k_proj"},
    "patterns": {
        "rank_pattern": {"q_proj": 2, "^model.layers.0.mlp.up_proj": 7},
        "alpha_pattern": {r".*mlp\..*_proj": 3, "k_proj": 1, "layers.1.self_attn.v_proj": 11},
    },
    "patterns-rslora": {"use_rslora": True, "rank_pattern": {"mlp.*": 3}, "alpha_pattern": {"o_proj": 9}},
    "saved": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head", "norm"]},
    "embedding": {"target_modules": ["embed_tokens", "v_proj"]},
    "embedding-and-head": {"target_modules": ["embed_tokens", "lm_head"], "use_rslora": True},
    "embedding-dora": {"target_modules": ["embed_tokens", "lm_head", "q_proj"], "use_dora": True},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [3, 58, 4]},
    "tokens-of-two": {"trainable_token_indices": {"embed_tokens": [9, 1], "lm_head": [7]}},
    "mica": {"init_lora_weights": "mica"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_weights_are_those_of_pefts_merge(tmp_path: Path, dtype: torch.dtype, options: dict[str, Any]):
    base = save_llama(tmp_path / "base", dtype)
    adapter = save_adapter(tmp_path / "adapter", base, **options)
    logits, expected = with_peft(base, adapter)
    result = merge_adapter(base, adapter, tmp_path / "out")
    got_logits, weights = loaded(tmp_path / "out")
    assert weights.keys() == expected.keys()
    # F32 sums in another order may fall on the other side of a half when they are rounded. In an embedding
    # and after MiCA, PEFT rounds the update by itself as well, before it is added; here it never is.
    rounds_twice = options in (OPTIONS["embedding"], OPTIONS["embedding-and-head"], OPTIONS["mica"])
    atol = 2.0**-10 if rounds_twice and dtype == torch.bfloat16 else 1e-6
    for name, weight in weights.items():
        assert weight.dtype == dtype
        torch.testing.assert_close(weight, expected[name], rtol=ONE_BIT[dtype] * 2, atol=atol)
    torch.testing.assert_close(got_logits, logits, rtol=0, atol=2e-5 if dtype == torch.float32 else 0.2)
    assert result.num_parameters == sum(weight.numel() for weight in weights.values())


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_trained_biases_are_those_of_pefts_merge(tmp_path: Path, bias: str):
    base = save_llama(tmp_path / "base", attention_bias=True, mlp_bias=True)
    adapter = save_adapter(tmp_path / "adapter", base, bias=bias, target_modules=["q_proj", "up_proj"])
    logits, expected = with_peft(base, adapter)
    merge_adapter(base, adapter, tmp_path / "out")
    got_logits, weights = loaded(tmp_path / "out")
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(got_logits, logits, rtol=0, atol=2e-5)


TIED: dict[str, dict[str, Any]] = {
    "embedding": {"target_modules": ["embed_tokens"]},
    "head": {"target_modules": ["lm_head"]},
    "both": {"target_modules": ["embed_tokens", "lm_head"]},
    "as-one": {"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
    "saved-embedding": {"modules_to_save": ["embed_tokens"]},
    "saved-head": {"modules_to_save": ["lm_head"]},
    "saved-both": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "saved-as-one": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "tokens": {"trainable_token_indices": [3, 5]},
    "linear": {},
}


@pytest.mark.parametrize("options", TIED.values(), ids=TIED)
def test_tied_model_answers_as_it_does_with_the_adapter_beside_it(tmp_path: Path, options: dict[str, Any]):
    """PEFT's own merge does not, where a tied weight has an update: it goes into both, or twice into one."""
    base = save_llama(tmp_path / "base", tie_word_embeddings=True)
    adapter = save_adapter(tmp_path / "adapter", base, **options)
    logits, _ = with_peft(base, adapter)
    merge_adapter(base, adapter, tmp_path / "out")
    got_logits, weights = loaded(tmp_path / "out")
    torch.testing.assert_close(got_logits, logits, rtol=0, atol=2e-5)
    is_tied = bool((weights["lm_head.weight"] == weights["model.embed_tokens.weight"]).all())
    assert is_tied is (options in (TIED["as-one"], TIED["saved-as-one"], TIED["tokens"], TIED["linear"]))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is is_tied


@pytest.mark.parametrize("tied", [False, True])
def test_vocabulary_that_grew_in_training_is_merged(tmp_path: Path, tied: bool):
    base = save_llama(tmp_path / "base", tie_word_embeddings=tied)
    larger = AutoModelForCausalLM.from_pretrained(base)
    larger.resize_token_embeddings(66, mean_resizing=False)
    larger.save_pretrained(tmp_path / "larger")
    options: dict[str, Any] = {"modules_to_save": ["embed_tokens", "lm_head"]}
    adapter = save_adapter(tmp_path / "adapter", tmp_path / "larger", **options)
    logits, _ = with_peft(tmp_path / "larger", adapter)
    merge_adapter(base, adapter, tmp_path / "out")
    torch.testing.assert_close(loaded(tmp_path / "out")[0], logits, rtol=0, atol=2e-5)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == 66


def test_gpt2_stores_weights_the_other_way_round_and_is_merged(tmp_path: Path):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=60, n_positions=32, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    for use_dora in (False, True):
        adapter = save_adapter(
            tmp_path / f"adapter{use_dora}",
            tmp_path / "base",
            target_modules=["c_attn", "c_proj", "c_fc"],
            fan_in_fan_out=True,
            use_dora=use_dora,
        )
        logits, expected = with_peft(tmp_path / "base", adapter)
        merge_adapter(tmp_path / "base", adapter, tmp_path / f"out{use_dora}")
        got_logits, weights = loaded(tmp_path / f"out{use_dora}")
        torch.testing.assert_close(weights, expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(got_logits, logits, rtol=0, atol=2e-5)


def test_shards_bins_and_half_precision_adapters_give_the_same(tmp_path: Path):
    base = save_llama(tmp_path / "base")
    adapter = save_adapter(tmp_path / "adapter", base, use_dora=True)
    merge_adapter(base, adapter, tmp_path / "out")
    expected = loaded(tmp_path / "out")[1]

    sharded = save_llama(tmp_path / "sharded", shard="20KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    as_bin = tmp_path / "bin"
    as_bin.mkdir()
    torch.save(AutoModelForCausalLM.from_pretrained(base).state_dict(), as_bin / "pytorch_model.bin")
    (as_bin / "config.json").write_bytes((base / "config.json").read_bytes())
    adapter_bin = save_adapter(tmp_path / "adapter_bin", base, use_dora=True, as_bin=True)
    for one_base, one_adapter in ((sharded, adapter), (as_bin, adapter), (base, adapter_bin)):
        merge_adapter(one_base, one_adapter, tmp_path / "again", max_shard_size=30_000, force=True)
        assert len(list((tmp_path / "again").glob("*.safetensors"))) > 2
        torch.testing.assert_close(loaded(tmp_path / "again")[1], expected, rtol=0, atol=0)


def test_turned_matrices_of_a_bin_are_read_where_they_lie(tmp_path: Path):
    base = save_llama(tmp_path / "base")
    adapter = save_adapter(tmp_path / "adapter", base, target_modules=["embed_tokens", "up_proj"])
    logits, _ = with_peft(base, adapter)
    from safetensors.torch import load_file

    tensors = load_file(adapter / "adapter_model.safetensors")
    (adapter / "adapter_model.safetensors").unlink()
    turned = {name: tensor.T.contiguous().T for name, tensor in tensors.items()}
    assert not any(tensor.is_contiguous() for tensor in turned.values())
    torch.save(turned, adapter / "adapter_model.bin")
    merge_adapter(base, adapter, tmp_path / "out")
    torch.testing.assert_close(loaded(tmp_path / "out")[0], logits, rtol=0, atol=2e-5)


def test_type_of_the_output_is_rounded_to_once(tmp_path: Path):
    base = save_llama(tmp_path / "base")
    adapter = save_adapter(tmp_path / "adapter", base)
    _, expected = with_peft(base, adapter)
    merge_adapter(base, adapter, tmp_path / "out", dtype="bf16")
    for name, weight in loaded(tmp_path / "out")[1].items():
        torch.testing.assert_close(weight, expected[name].bfloat16(), rtol=2.0**-7, atol=0)


def test_any_base_and_any_target_give_the_same_weights(tmp_path: Path):
    base = save_llama(tmp_path / "base")
    adapter = save_adapter(tmp_path / "adapter", base)
    merge_adapter(base, adapter, tmp_path / "out")
    for target in ("gguf", "meta"):
        convert(base, tmp_path / f"direct-{target}", to=target, adapter=adapter)
        convert(tmp_path / f"direct-{target}", tmp_path / f"back-{target}")
        expected, got = loaded(tmp_path / "out")[1], loaded(tmp_path / f"back-{target}")[1]
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
        convert(base, tmp_path / target, to=target)
        merge_adapter(tmp_path / target, adapter, tmp_path / f"from-{target}")
        torch.testing.assert_close(loaded(tmp_path / f"from-{target}")[1], expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_adapter_of_our_own_recipes_is_merged_as_they_merge_it(tmp_path: Path, dtype: torch.dtype):
    from tune_recipes.lora import add_lora, lora_layers, merge_lora_, save_adapter
    from tune_recipes.models.load import load_model

    base = save_llama(tmp_path / "base", dtype)
    model = load_model(base, dtype=dtype)
    add_lora(model, targets=["q_proj", "down_proj"], rank=3, alpha=5)
    for _, layer in lora_layers(model):
        torch.nn.init.normal_(layer.lora_B.weight, std=0.1)
    save_adapter(model, tmp_path / "adapter", base=str(base))
    merge_lora_(model)
    merge_adapter(base, tmp_path / "adapter", tmp_path / "out")
    for name, weight in loaded(tmp_path / "out")[1].items():
        torch.testing.assert_close(weight, model.state_dict()[name], rtol=ONE_BIT[dtype], atol=1e-6)


BIG = 5120
"""Rows and columns of a matrix of 105 MB."""
MEMORY = """
import sys
from pathlib import Path
from tune_checkpoint import convert
from tune_checkpoint.peft.merge import merge_adapter

def anonymous():
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024

def seen(*_):
    peak[0] = max(peak[0], anonymous())

peak = [0]
small, big = sys.argv[1:3]
merge_adapter(f"{small}/base", f"{small}/adapter", f"{small}/out")
before = anonymous()
merge_adapter(f"{big}/base", f"{big}/adapter", f"{big}/out", jobs=1, progress=seen)
print(peak[0] - before)
"""


@pytest.mark.parametrize("use_dora", [False, True])
def test_memory_holds_one_matrix_of_the_adapter_and_a_few_blocks(tmp_path: Path, use_dora: bool):
    random = np.random.default_rng(0)
    for name, size in (("small", 64), ("big", BIG)):
        base, adapter = tmp_path / name / "base", tmp_path / name / "adapter"
        base.mkdir(parents=True)
        adapter.mkdir()
        weight = random.standard_normal((size, size), np.float32)
        save_file({"m.x.weight": weight}, base / "model.safetensors")
        tensors = {
            f"m.x.lora_{part}.weight": random.standard_normal(shape, np.float32)
            for part, shape in (("A", (16, size)), ("B", (size, 16)))
        }
        if use_dora:
            tensors["m.x.lora_magnitude_vector"] = np.ones(size, np.float32)
        save_file(tensors, adapter / "adapter_model.safetensors")
        fields = {"peft_type": "LORA", "r": 16, "lora_alpha": 16, "use_dora": use_dora}
        (adapter / "adapter_config.json").write_text(json.dumps(fields))
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "small"), str(tmp_path / "big")]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown < 40_000_000  # the allocator keeps up to 10 MB more or less
