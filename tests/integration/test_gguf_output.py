"""GGUF files that are written here, run by llama.cpp and transformers, against the folders they are from."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from llama_cpp_server import ask_llama_cpp
from tokenizer_samples import LEADING_SPACES, QWEN2_SPLIT, TEXTS, byte_level, write_sentencepiece
from tune_checkpoint import convert, open_checkpoint
from tune_checkpoint.tokenizers.files import tokenizer_files_from
from tune_checkpoint.tokenizers.splits import LLAMA3_SPLIT, TEKKEN_SPLIT

PEAK_BYTES = 300_000_000
TOLERANCE = 5e-4
"""Of log-probabilities: llama.cpp sums in another order. A head in the wrong order is off by several."""

VOCAB = 384
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "tied-biases-wide-heads": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES, tie_word_embeddings=True, head_dim=32, attention_bias=True, mlp_bias=True)
    ),
    "llama3-scaling": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=LLAMA3)),
    "linear-scaling": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=LINEAR)),
    "with-window": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=128)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
}
IDS = [(7 * place * place + 3 * place) % VOCAB for place in range(100)]


def make_folder(kind: str, folder: Path, split: str | None = LLAMA3_SPLIT) -> Any:
    """Save a small random model with a tokenizer; return the model."""
    torch.manual_seed(0)
    model = MODELS[kind]().eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:  # all zeros or ones otherwise
            parameter.data += torch.randn_like(parameter) * 0.2
    model.save_pretrained(folder)
    tokenizer = byte_level(split, VOCAB - 30)  # the other rows of the embedding have no token
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    return model


def file_of(folder: Path) -> Path:
    (path,) = folder.glob("*.gguf")
    return path


@pytest.mark.parametrize("kind", MODELS)
def test_llama_cpp_computes_what_transformers_does(tmp_path: Path, kind: str):
    model = make_folder(kind, tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "out", to="gguf", quant="f32")
    with torch.no_grad():
        expected_SV = torch.log_softmax(model(torch.tensor([IDS])).logits[0], -1)
    # Of the end of a text and of half a character, llama.cpp says nothing: ask for the last whole one.
    tokenizer = Tokenizer.from_file(str(tmp_path / "hf" / "tokenizer.json"))
    likeliest = [tokenizer.decode([token]) for token in expected_SV.argmax(-1).tolist()]
    length = max(place for place, text in enumerate(likeliest, 1) if text.isascii() and text)
    expected = expected_SV[length - 1]
    # A negative temperature gives the probabilities of all tokens, not of those that may be drawn.
    request = {"prompt": IDS[:length], "n_predict": 1, "n_probs": 50, "temperature": -1}
    (answer,) = ask_llama_cpp(file_of(tmp_path / "out"), ("/completion", request))
    best = answer["completion_probabilities"][0]["top_logprobs"]
    assert [token["id"] for token in best[:5]] == expected.topk(5).indices.tolist()
    found = torch.tensor([token["logprob"] for token in best])
    torch.testing.assert_close(found, expected[[t["id"] for t in best]], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("split", [None, "digits", LLAMA3_SPLIT, TEKKEN_SPLIT, QWEN2_SPLIT, "sentencepiece"])
def test_llama_cpp_splits_text_as_the_folders_tokenizer_does(tmp_path: Path, split: str | None):
    folder = tmp_path / "hf"
    make_folder("llama", folder, None if split == "sentencepiece" else split)
    if split == "sentencepiece":
        for file in tokenizer_files_from(write_sentencepiece(folder / "tokenizer.model", VOCAB)).files:
            (folder / file.name).write_bytes(file.content)
    convert(folder, tmp_path / "out", to="gguf", quant="f16")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = [*TEXTS, *LEADING_SPACES]
    requests = [
        ("/tokenize", {"content": text, "add_special": True, "parse_special": True}) for text in texts
    ]
    answers = ask_llama_cpp(file_of(tmp_path / "out"), *requests)
    for text, answer in zip(texts, answers, strict=True):
        assert answer["tokens"] == tokenizer.encode(text).ids, repr(text)


@pytest.mark.parametrize("kind", ["llama", "llama3-scaling", "qwen2"])
def test_transformers_reads_the_same_model_from_the_file(tmp_path: Path, kind: str):
    model = make_folder(kind, tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "out", to="gguf", quant="f32")
    path = file_of(tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, weights in loaded.state_dict().items():
        assert torch.equal(weights, model.state_dict()[name]), name
    if kind != "llama3-scaling":  # whose factors transformers does not read
        with torch.no_grad():
            assert torch.equal(loaded(torch.tensor([IDS])).logits, model(torch.tensor([IDS])).logits)


@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind != "llama3-scaling"])
def test_model_that_comes_back_computes_what_it_did(tmp_path: Path, kind: str):
    model = make_folder(kind, tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "out", to="gguf", quant="f32")
    convert(tmp_path / "out", tmp_path / "back")
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "back", output_loading_info=True)
    back, info = loaded
    assert type(back) is type(model)
    assert not any(info.values())
    with torch.no_grad():
        assert torch.equal(back(torch.tensor([IDS])).logits, model(torch.tensor([IDS])).logits)


def test_rotary_factors_are_those_of_transformers(tmp_path: Path):
    model = make_folder("llama3-scaling", tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "out", to="gguf")
    factors = open_checkpoint(tmp_path / "out")["rope_freqs.weight"].numpy()
    plain = 10000.0 ** -(torch.arange(0, 16, 2) / 16)
    torch.testing.assert_close(plain / torch.from_numpy(factors.copy()), model.model.rotary_emb.inv_freq)


@pytest.fixture(scope="module")
def smollm2_q8(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("gguf") / "q8"
    result = convert(smollm2, folder, to="gguf", quant="q8_0")
    assert result.warnings == ()
    yield file_of(folder)
    file_of(folder).unlink()


def test_smollm2_answers_in_llama_cpp(smollm2_q8: Path):
    request = {"prompt": "The capital of France is", "temperature": 0, "n_predict": 4}
    (answer,) = ask_llama_cpp(smollm2_q8, ("/completion", request))
    assert "Paris" in answer["content"]


def test_smollm2_answers_in_transformers(smollm2: Path, smollm2_q8: Path):
    folder, name = smollm2_q8.parent, smollm2_q8.name
    tokenizer: Any = AutoTokenizer.from_pretrained(smollm2)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    text = model.generate(**ids, do_sample=False, max_new_tokens=20)
    assert "Paris" in tokenizer.decode(text[0, ids["input_ids"].shape[1] :])


def test_memory_is_bounded_without_torch(smollm2: Path, tmp_path: Path):
    code = """
import sys
from pathlib import Path
from tune_checkpoint import convert

def anonymous_kb(*_):
    status = Path("/proc/self/status").read_text()
    seen.append(int(status.split("RssAnon:")[1].split()[0]))

seen = []
convert(sys.argv[1], sys.argv[2], to="gguf", quant="q4_0", jobs=2, progress=anonymous_kb)
assert "torch" not in sys.modules
print(max(seen) * 1024)
"""
    command = [sys.executable, "-c", code, str(smollm2), str(tmp_path / "out")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(done.stdout) < PEAK_BYTES, done.stdout
