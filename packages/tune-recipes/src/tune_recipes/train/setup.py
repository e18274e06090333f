"""What a recipe builds from its options: its batches, and a model that starts from scratch."""

import torch

from tune_recipes.data.loader import Loader, build_loader
from tune_recipes.models.config import ModelConfig, RopeParameters
from tune_recipes.models.decoder import Decoder
from tune_recipes.models.load import build_model
from tune_recipes.schema import Shape, Training
from tune_recipes.tokenizer import Tokenizer
from tune_recipes.train.distributed import World
from tune_recipes.train.run import Run


def batches_of(cfg: Training, run: Run, tokenizer: Tokenizer, world: World) -> Loader:
    """Return this process's micro-batches of a run.

    Raises:
        UserError: The data file or a record of it cannot be used.
    """
    return build_loader(
        cfg.data,
        tokenizer,
        batch_size=cfg.batch_size,
        seed=cfg.seed,
        rank=world.rank,
        world_size=world.size,
        now=run.began,
    )


def model_from_scratch(
    shape: Shape | ModelConfig, tokenizer: Tokenizer, *, seed: int, dtype: torch.dtype, device: torch.device
) -> Decoder:
    """Return a model with random weights.

    Args:
        shape: Its size; from a config.json, or from the recipe's options, which leave the vocabulary to the
            tokenizer.
        tokenizer: What it will read.
        seed: Decides the weights.
        dtype: Of the parameters.
        device: Where they live.
    """
    config = shape if isinstance(shape, ModelConfig) else _config_of(shape, tokenizer)
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
