"""What a recipe builds from its options: its batches, and the shape of a model that starts from scratch."""

from tune_recipes.data.loader import Loader, build_loader
from tune_recipes.models.config import ModelConfig, RopeParameters
from tune_recipes.schema import Shape, Training
from tune_recipes.tokenizer import Tokenizer
from tune_recipes.train.run import Run


def batches_of(cfg: Training, run: Run, tokenizer: Tokenizer) -> Loader:
    """Return this process's micro-batches of a run.

    Raises:
        UserError: The data file or a record of it cannot be used.
    """
    return build_loader(
        cfg.data,
        tokenizer,
        batch_size=cfg.batch_size,
        # Of the processes that it was started with: a run that goes on with others takes the same steps.
        step_size=cfg.batch_size * cfg.grad_accum_steps * run.started_with,
        seed=cfg.seed,
        rank=run.world.rank,
        world_size=run.world.size,
        now=run.began,
    )


def model_config(shape: Shape, tokenizer: Tokenizer) -> ModelConfig:
    """Return the config of a model of a wished size, whose vocabulary is the tokenizer's."""
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
