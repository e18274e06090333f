"""Model folders with tokenizers of the two kinds in use, made on the spot."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import (
    AddedToken,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from tokenizers import Tokenizer as Backend

DEMO = Path(__file__).parents[4] / "packages/tune-recipes/src/tune_recipes/builtin/demo"

CORPUS = [
    "What is the capital of France? The capital of France is Paris.",
    "Below is an instruction that describes a task. Write a response that completes the request.",
    "naïve café, 東京 and 🙂; x = [i * 2 for i in range(10)]\n\tprint(x)  # 1234567890",
    "user assistant system Paris London Berlin question answer hello there general",
]
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]


def byte_level_backend() -> Backend:
    """As Llama 3, SmolLM2 and most newer models have it; a bos token goes before a text."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)]),
        ]
    )
    return backend


def sentencepiece_backend() -> Backend:
    """As Llama 2 and Mistral have it: a space before each text, bytes for unknown characters."""
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trained = Backend(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(
        vocab_size=480, special_tokens=SPECIAL + byte_tokens, limit_alphabet=60, show_progress=False
    )
    trained.train_from_iterator(CORPUS, trainer)
    spec = json.loads(trained.to_str())
    # The byte tokens are for falling back only, not texts of special tokens.
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] in SPECIAL]
    backend = Backend.from_str(json.dumps(spec))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return backend


@pytest.fixture(scope="session")
def backends() -> dict[str, Backend]:
    return {"byte_level": byte_level_backend(), "sentencepiece": sentencepiece_backend()}


@pytest.fixture
def make_folder(tmp_path: Path, backends: dict[str, Backend]) -> Callable[..., Path]:
    """Write a model folder: `make_folder("byte_level", eos_token="</s>", files={"config.json": {...}})`."""

    def make(kind: str = "byte_level", *, files: dict[str, Any] | None = None, **config: Any) -> Path:
        folder = tmp_path / f"model{len(list(tmp_path.glob('model*')))}"
        folder.mkdir()
        backends[kind].save(str(folder / "tokenizer.json"))
        names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        config = {"tokenizer_class": "PreTrainedTokenizerFast"} | names | config
        for name, content in {"tokenizer_config.json": config, **(files or {})}.items():
            (folder / name).write_text(json.dumps(content), encoding="utf-8")
        return folder

    return make


@pytest.fixture
def demo() -> Path:
    return DEMO


@pytest.fixture
def data_options(tmp_path: Path) -> Callable[..., SimpleNamespace]:
    """Write records as JSONL and return `data` options that read them."""

    def make(records: list[dict], **options: Any) -> SimpleNamespace:
        path = tmp_path / "data.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        defaults = {
            "path": str(path),
            "format": "completion",
            "column_map": {},
            "max_seq_len": 512,
            "train_on_input": False,
            "shuffle": True,
        }
        return SimpleNamespace(**defaults | options)

    return make
