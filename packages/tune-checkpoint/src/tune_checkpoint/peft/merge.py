"""`merge_adapter`: a model and its adapter, made one."""

from pathlib import Path

from tune_checkpoint._convert import ConversionResult, convert
from tune_checkpoint.plan import Progress
from tune_checkpoint.shards import DEFAULT_SHARD_BYTES


def merge_adapter(
    base: Path | str,
    adapter: Path | str,
    output_dir: Path | str,
    *,
    dtype: str | None = None,
    force: bool = False,
    max_shard_size: int = DEFAULT_SHARD_BYTES,
    verify: bool = True,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> ConversionResult:
    """Merge a PEFT adapter into the model that it was trained on, as a Hugging Face folder.

    LoRA, rank-stabilised LoRA and DoRA. Memory does not grow with the model. A merge that would change
    nothing is an error.

    Args:
        base: the model: a folder or a file of any kind that `convert` reads.
        adapter: a folder with `adapter_config.json` and `adapter_model.safetensors` or `.bin`.
        output_dir: the folder to make.
        dtype: type of the floating-point weights: `fp32`, `fp16` or `bf16`; None keeps the base's.
        force: replace `output_dir` if it is the folder of a model, with nothing else in it.
        max_shard_size: bytes of weights in one file, at most.
        verify: read the weights again, and compare them with what was computed.
        jobs: how many tensors are worked on at a time.
        progress: see `Progress`.

    Returns:
        What was written.

    Raises:
        UnsupportedCheckpointError: the adapter does not fit the base, changes nothing, or is of another kind.
        CheckpointError: as `convert` does.
    """
    return convert(
        base,
        output_dir,
        dtype=dtype,
        adapter=adapter,
        force=force,
        max_shard_size=max_shard_size,
        verify=verify,
        jobs=jobs,
        progress=progress,
    )
