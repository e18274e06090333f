"""Small random models made and saved by transformers: the reference for all that is computed here."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "attn_implementation": "eager",
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
MODELS = {
    "tied": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "biased": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True, head_dim=16, pad_token_id=7)
    ),
    "llama3": lambda: LlamaForCausalLM(
        LlamaConfig(**{**SIZES, "num_key_value_heads": 6}, rope_parameters=dict(LLAMA3))
    ),
    "linear": lambda: LlamaForCausalLM(
        LlamaConfig(
            **SIZES,
            rope_parameters={"rope_type": "linear", "rope_theta": 100.0, "factor": 4.0},
            rms_norm_eps=1e-3,
        )
    ),
    "windowed": lambda: MistralForCausalLM(MistralConfig(**SIZES, head_dim=12, sliding_window=4)),
}


@dataclass(frozen=True)
class Reference:
    """A model of transformers and the folder that it was saved to."""

    model: Any
    folder: Path

    def logits(self, input_ids: torch.Tensor, **options: Any) -> torch.Tensor:
        return self.model(input_ids, **options).logits


def _make(name: str, folder: Path) -> Reference:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    with torch.no_grad():
        # Weights large enough that every part of the model shows in the logits, norms and biases too.
        for parameter_name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in parameter_name else 0.0, 0.3)
    model.save_pretrained(folder)
    return Reference(model, folder)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny matrices gain nothing from a second thread, and lose much when the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reference]:
    root = tmp_path_factory.mktemp("references")
    return {name: _make(name, root / name) for name in MODELS}


@pytest.fixture(params=list(MODELS))
def reference(request: pytest.FixtureRequest, references: dict[str, Reference]) -> Reference:
    return references[request.param]


@pytest.fixture
def input_ids() -> torch.Tensor:
    return torch.randint(8, 61, (3, 40), generator=torch.Generator().manual_seed(1))
