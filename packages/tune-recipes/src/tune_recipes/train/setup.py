"""What is decided before the first step: the model to start from, and how many steps there will be."""

from pathlib import Path

import torch

from tune_recipes.data.loader import Loader
from tune_recipes.models.config import ModelConfig, RopeParameters
from tune_recipes.models.decoder import Decoder
from tune_recipes.models.load import build_model, load_model
from tune_recipes.schema import Shape, Training
from tune_recipes.tokenizer import Tokenizer


def starting_model(
    source: Path | Shape | ModelConfig,
    tokenizer: Tokenizer,
    *,
    seed: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Decoder:
    """Return the model that training starts from.

    Args:
        source: A folder to load, or the size of a model to make from scratch.
        tokenizer: Decides the vocabulary of a model made from scratch.
        seed: Decides its weights.
        dtype: Of the parameters.
        device: Where they live.

    Raises:
        UserError: The folder's weights do not fit its config.json.
    """
    if isinstance(source, Path):
        return load_model(source, dtype=dtype, device=device)
    config = source if isinstance(source, ModelConfig) else _config_of(source, tokenizer)
    return build_model(config, seed=seed, dtype=dtype, device=device)


def _config_of(shape: Shape, tokenizer: Tokenizer) -> ModelConfig:
    return ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_key_value_heads,
        max_position_embeddings=shape.max_position_embeddings,
        rope_parameters=RopeParameters(rope_theta=shape.rope_theta),
        tie_word_embeddings=shape.tie_word_embeddings,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
    )


def count_steps(cfg: Training, loader: Loader) -> int:
    """Return the number of steps: the whole ones in the epochs, at most `max_steps`, at least one."""
    in_epochs = max(1, cfg.epochs * len(loader) // cfg.grad_accum_steps)
    return min(in_epochs, cfg.max_steps or in_epochs)
