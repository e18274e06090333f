"""SmolLM2-135M-Instruct, converted from its GGUF file, held against transformers' own reading of it."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import pre_tokenizers

from tune_checkpoint import ConversionResult, convert, open_checkpoint

PEAK_BYTES = 300_000_000

CODE = '''def fib(n: int) -> int:
    """Return the n-th number."""
    if n < 2:
        return n

\treturn fib(n - 1) + fib(n - 2)  # 0, 1, 1, 2, 3, 5
'''


@pytest.fixture(scope="module")
def converted(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConversionResult]:
    folder = tmp_path_factory.mktemp("smollm2") / "SmolLM2-135M-Instruct"
    yield convert(smollm2_gguf, folder)
    (folder / "model.safetensors").unlink()  # half a gigabyte


@pytest.fixture(scope="module")
def reference_tokenizer(smollm2_gguf: Path) -> Any:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(smollm2_gguf.parent, gguf_file=smollm2_gguf.name)
    # transformers takes "smollm" in the file for "gpt-2"; the original and llama.cpp take digits off first.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


@pytest.fixture(scope="module")
def tokenizer(converted: ConversionResult) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(converted.output_dir)


@pytest.fixture
def run_python() -> Callable[..., str]:
    """Run code in a fresh process and give what it prints."""

    def run(code: str, *arguments: str) -> str:
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    return run


def varied_texts() -> list[str]:
    """A few hundred strings: scripts, code, whitespace, digits, special tokens and what surrounds them."""
    scripts = [
        "The capital of France is Paris.", "Grüße aus Köln, ça va?", "Привет, мир!",
        "東京は日本の首都です。",
        "مرحبا بالعالم",
        "नमस्ते दुनिया", "안녕하세요", "שלום", "สวัสดีชาวโลก", "Ελληνικά", "🎉👩\u200d👧🏳\ufe0f\u200d🌈",
        "e\u0301 é ﬁ ½ ²³", "\u200b\u00a0\u3000\ufeff", "\x00\x01\x7f",
        "I'm you're he'll DON'T it'S", "a_b-c.d/e\\f",
        "http://x.org/?q=1&r=2",
    ]  # fmt: skip
    whitespace = [
        "", " ", "  ", "\n", "\n\n", "\t", "\r\n",
        " \n ", "   x", "x   ", "a\n\n\nb", "\t\tx", "a \n b", "    ",
    ]  # fmt: skip
    digits = [
        "0", "7", "42", "123", "1234567890", "3.14159", "1,000,000",
        "-5", "1e-05", "0x1F", "\uff11\uff12", "٣", "x1y22z333",
    ]  # fmt: skip
    specials = [
        "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>",
        "<file_sep>", "<empty_output>", "<|im_start|",
    ]  # fmt: skip
    texts = [*scripts, *whitespace, *digits, *specials, CODE, *CODE.splitlines()]
    texts += [f"a{space}{digit}" for space in (" ", "  ", "    ", "\n", "\n  ", "\t") for digit in digits]
    texts += [
        f"{left}{special}{right}"
        for special in specials
        for left, right in (("x", "y"), (" ", " "), ("\n", "1"))
    ]
    texts += [f"{one} {other}" for one in scripts for other in scripts[:6]]
    texts += [
        chr(start + offset) * 2
        for start in (0x20, 0xA0, 0x400, 0x2000, 0x1F600)
        for offset in range(0, 64, 7)
    ]
    return texts


def test_weights_equal_transformers_dequantisation(smollm2_gguf: Path, converted: ConversionResult):
    import torch
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(
        smollm2_gguf.parent, gguf_file=smollm2_gguf.name, dtype=torch.float32
    ).state_dict()
    checkpoint = open_checkpoint(converted.output_dir)
    assert set(reference) - set(checkpoint) == {"lm_head.weight"}  # tied
    for name, tensor in checkpoint.items():
        np.testing.assert_array_equal(tensor.numpy(), reference[name].numpy(), err_msg=name)


def test_folder_loads_in_transformers_unchanged(smollm2_gguf: Path, converted: ConversionResult):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(converted.output_dir, output_loading_info=True)
    model, info = loaded
    assert not any(info.values())
    assert model.dtype == torch.float32
    assert model.lm_head.weight is model.model.embed_tokens.weight
    ids = torch.tensor([[1, 504, 3575]])
    assert torch.isfinite(model(ids).logits).all()
    reference = AutoConfig.from_pretrained(smollm2_gguf.parent, gguf_file=smollm2_gguf.name).to_dict()
    ours = model.config.to_dict()
    for key in (
        "rope_parameters",
        "head_dim",
        "max_position_embeddings",
        "vocab_size",
        "tie_word_embeddings",
    ):
        assert ours[key] == reference[key], key
    assert ours["rms_norm_eps"] == pytest.approx(reference["rms_norm_eps"], rel=1e-7)
    assert (model.generation_config.eos_token_id, model.generation_config.pad_token_id) == (2, 2)


def test_token_ids_equal_transformers_reading_of_the_file(reference_tokenizer: Any, tokenizer: Any):
    texts = varied_texts()
    assert len(texts) > 300
    for text in texts:
        ids = reference_tokenizer(text)["input_ids"]
        assert tokenizer(text)["input_ids"] == ids, repr(text)
        assert tokenizer.decode(ids) == reference_tokenizer.decode(ids), repr(text)


def test_tokenizer_has_the_same_special_tokens_and_vocabulary(reference_tokenizer: Any, tokenizer: Any):
    assert tokenizer.special_tokens_map == reference_tokenizer.special_tokens_map
    assert tokenizer.get_vocab() == reference_tokenizer.get_vocab()
    assert tokenizer.all_special_ids == reference_tokenizer.all_special_ids


@pytest.mark.parametrize("add_generation_prompt", [False, True])
def test_chat_template_renders_the_same(
    reference_tokenizer: Any, tokenizer: Any, add_generation_prompt: bool
):
    messages = [
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "Paris.\n"},
        {"role": "user", "content": "And of 日本?"},
    ]

    def render(of: Any, **how: Any) -> Any:
        return of.apply_chat_template(messages, add_generation_prompt=add_generation_prompt, **how)

    assert render(tokenizer, tokenize=False) == render(reference_tokenizer, tokenize=False)
    ids = [render(of, return_dict=True)["input_ids"] for of in (tokenizer, reference_tokenizer)]
    assert ids[0] == ids[1]


def test_result_says_what_was_written(converted: ConversionResult):
    assert converted.warnings == ()
    assert set(converted.files) == {path.name for path in Path(converted.output_dir).iterdir()}
    assert converted.num_parameters == 134_515_008
    config = json.loads((Path(converted.output_dir) / "config.json").read_text())
    assert (config["rope_theta"], config["rms_norm_eps"], config["eos_token_id"]) == (100000.0, 1e-05, 2)


def test_readme_example_runs(smollm2_gguf: Path, tmp_path: Path, run_python: Callable[..., str]):
    readme = Path(__file__).parents[2] / "packages" / "tune-checkpoint" / "README.md"
    example = readme.read_text().split("```python\n")[1].split("```")[0]
    (tmp_path / smollm2_gguf.name).symlink_to(smollm2_gguf)
    printed = run_python(f"import os; os.chdir({str(tmp_path)!r})\n{example}")
    assert "F32 (49152, 576)" in printed


def test_memory_is_bounded_without_torch(smollm2_gguf: Path, tmp_path: Path, run_python: Callable[..., str]):
    code = """
import sys, threading
from pathlib import Path
from tune_checkpoint import convert

def anonymous_kb(*_):
    status = Path("/proc/self/status").read_text()
    seen.append(int(status.split("RssAnon:")[1].split()[0]))

seen = []
convert(sys.argv[1], sys.argv[2], dtype="bf16", progress=anonymous_kb)
assert "torch" not in sys.modules
print(max(seen) * 1024)
"""
    assert int(run_python(code, str(smollm2_gguf), str(tmp_path / "out"))) < PEAK_BYTES
