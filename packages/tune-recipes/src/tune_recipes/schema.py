"""The options that recipes share, declared once: types, defaults, limits and documentation.

A recipe's `Config` is made of these. The text under a field is what `tune run RECIPE --help` prints for it.
"""

import math
from typing import Annotated, Literal

from msgspec import Meta, Struct

PositiveInt = Annotated[int, Meta(ge=1)]
NonNegativeInt = Annotated[int, Meta(ge=0)]
PositiveFloat = Annotated[float, Meta(gt=0)]
NonNegativeFloat = Annotated[float, Meta(ge=0)]
Seed = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Fraction = Annotated[float, Meta(ge=0, lt=1)]

# What a text names on the disk; `checks.py` looks whether it is there before anything heavy is loaded.
CheckpointFolder = Annotated[str, Meta(extra={"names": "checkpoint"})]
ModelFolder = Annotated[str, Meta(extra={"names": "model"})]
AdapterFolder = Annotated[str, Meta(extra={"names": "adapter"})]
DataFile = Annotated[str, Meta(extra={"names": "file"})]


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """A group of options; an unknown key is an error."""


class Shape(Options, frozen=True, kw_only=True):
    """The size of a Llama-shaped model that is trained from scratch; its vocabulary is the tokenizer's."""

    hidden_size: PositiveInt
    """Width of the residual stream."""
    intermediate_size: PositiveInt
    """Width inside the MLP."""
    num_hidden_layers: PositiveInt
    """Number of decoder blocks."""
    num_attention_heads: PositiveInt
    """Number of query heads."""
    num_key_value_heads: PositiveInt
    """Number of key and value heads; a divisor of the query heads."""
    max_position_embeddings: PositiveInt = 2048
    """Longest sequence, in tokens."""
    rope_theta: PositiveFloat = 10_000.0
    """Base of the rotary frequencies."""
    tie_word_embeddings: bool = True
    """Use the embedding matrix as the output head too."""

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError("shape.hidden_size must be a multiple of shape.num_attention_heads")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError("shape.num_attention_heads must be a multiple of shape.num_key_value_heads")


class Data(Options, frozen=True, kw_only=True):
    """What to train on."""

    path: DataFile
    """JSON or JSONL file of records; `builtin:demo/capitals.jsonl` ships with the package."""
    format: Literal["alpaca", "chat", "completion"] = "alpaca"
    """What a record holds: instruction, input and output; messages with roles; or a text."""
    column_map: dict[str, str] = {}
    """Our field name to the file's column, where they differ: `{output: answer}`."""
    max_seq_len: Annotated[int, Meta(ge=2)] = 2048
    """Longer sequences are cut off here, in tokens."""
    train_on_input: bool = False
    """Learn to predict the prompt too, not only the answer."""
    shuffle: bool = True
    """A new order every epoch, decided by the seed."""


class Optim(Options, frozen=True):
    """The optimizer."""

    name: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with the first beta as momentum (one state per parameter less)."""
    lr: PositiveFloat = 2e-5
    """Peak learning rate."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""
    eps: PositiveFloat = 1e-8
    """Added to the denominator of AdamW's update."""
    weight_decay: NonNegativeFloat = 0.01
    """Weight decay, decoupled for AdamW, L2 for SGD; biases and norms are not decayed."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are scaled down to this global norm; `.inf` never does."""

    def __post_init__(self) -> None:
        for name in ("lr", "eps", "weight_decay"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"optim.{name}: expected a finite number, got {getattr(self, name)}")


class Schedule(Options, frozen=True):
    """How the learning rate goes from its peak to its end."""

    name: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the descent after the warmup."""
    warmup_steps: NonNegativeInt = 0
    """Steps in which the rate rises, in equal parts from above zero; the step after them has the peak."""
    min_lr: NonNegativeFloat = 0.0
    """Rate that the descent goes towards, and would reach one step after the last; `constant` has none."""


class Lora(Options, frozen=True):
    """The adapter that is trained instead of the model."""

    rank: PositiveInt = 8
    """Rank of each update matrix."""
    alpha: PositiveFloat = 16.0
    """The update is scaled by alpha / rank."""
    dropout: Fraction = 0.0
    """Dropout on the adapter's input."""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Names of the linear layers that get an adapter."""
    merge: bool = False
    """Also write the model with the adapter merged in, to RUN/merged."""


class Checkpoint(Options, frozen=True):
    """What a run that was stopped goes on from."""

    save_every: PositiveInt | None = None
    """Steps between checkpoints; without it, there is one at the end of training."""
    save_every_minutes: PositiveFloat | None = None
    """Minutes between checkpoints, instead of steps or beside them."""
    keep_last: PositiveInt = 1
    """Older checkpoints are deleted."""


class Logging(Options, frozen=True):
    """What is written while it runs."""

    log_every: PositiveInt = 1
    """Steps between the lines on the terminal; metrics.jsonl has every step."""


class Training(Options, frozen=True, kw_only=True):
    """What every recipe that trains has."""

    model: CheckpointFolder
    """Folder of a Hugging Face checkpoint: config.json, safetensors, tokenizer.json."""
    output_dir: str = "runs"
    """Each run gets a folder of its own in here."""
    data: Data
    """What to train on."""
    optim: Optim = Optim()
    """The optimizer."""
    schedule: Schedule = Schedule()
    """How the learning rate changes."""
    batch_size: PositiveInt = 2
    """Sequences per micro-batch and process; a step has these x grad_accum_steps x processes."""
    grad_accum_steps: PositiveInt = 1
    """Micro-batches per optimizer step."""
    epochs: PositiveInt = 1
    """How many times to go over the data."""
    max_steps: PositiveInt | None = None
    """Stop after this many optimizer steps, if the epochs have as many."""
    seed: Seed = 42
    """Decides the initial weights, the order of the data and the dropout."""
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """Of weights and arithmetic; auto is bf16 where the hardware is fast at it, else fp32."""
    on_nan: Literal["stop", "skip"] = "stop"
    """What to do about a step whose loss is no finite number: end the run, or leave the step out."""
    checkpoint: Checkpoint = Checkpoint()
    """When to save."""
    logging: Logging = Logging()
    """What to print."""
