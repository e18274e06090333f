"""What to say when the memory was not enough: what takes it, and what each change would save."""

import re
import traceback
from collections.abc import Callable

import torch
from msgspec.structs import replace

from tune_recipes.errors import TrainingFailed
from tune_recipes.schema import Training
from tune_recipes.train.checkpoint import TrainState
from tune_recipes.train.memory import estimate_memory, load_of
from tune_recipes.train.plan import planned_state
from tune_recipes.train.run import Run
from tune_recipes.train.sizes import megabytes


def is_out_of_memory(error: BaseException | None) -> bool:
    """Say whether an error, or what it came from, is about memory; on the CPU it has no type of its own."""
    while error is not None:
        text = str(error).lower()
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or (
            isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)
        ):
            return True
        error = error.__cause__
    return False


def out_of_memory(main: Callable[..., None], cfg: Training, run: Run, error: Exception) -> TrainingFailed:
    """Return the error to raise in place of the one that says that there was no memory left."""
    traceback.clear_frames(error.__traceback__)  # what they hold is the room that we need
    try:
        advice = _advice(planned_state(main, cfg, run.world), cfg, run.world.size)
    except Exception:  # advice is not worth an error of its own
        advice = ["try a smaller batch_size, or more processes"]
    return TrainingFailed("\n  ".join([_what_was_missing(error), *advice]))


def _what_was_missing(error: Exception) -> str:
    if on_cpu := re.search(r"tried to allocate (\d+) bytes", str(error)):
        return f"there is not enough memory: another {megabytes(int(on_cpu[1]))} were wanted"
    return f"there is not enough memory: {(str(error).splitlines() or [type(error).__name__])[0]}"


def _advice(state: TrainState, cfg: Training, num_processes: int) -> list[str]:
    total = estimate_memory(state.model, load_of(state.loader, cfg, num_processes)).total
    ways = ways_to_save(state, cfg, num_processes)
    width = max(len(way) for way, _ in ways)
    each = "each process" if num_processes > 1 else "this run"
    return [
        f"{each} takes about {megabytes(total)} beside PyTorch; in a new run, this would save:",
        *(f"  {way:<{width}}  about {megabytes(saved)}" for way, saved in ways if saved > 0),
    ]


def ways_to_save(state: TrainState, cfg: Training, num_processes: int) -> list[tuple[str, int]]:
    """Return what one could change, as one would type it, and how many bytes it would save; the most first.

    Args:
        state: Of a run that was planned: its model is on the meta device.
        cfg: The options that it was planned for.
        num_processes: Likewise.
    """
    model, load = state.model, load_of(state.loader, cfg, num_processes)
    now = estimate_memory(model, load)
    others = {f"{2 * num_processes} processes or GPUs": replace(load, num_processes=2 * num_processes)}
    if load.batch_size > 1:
        smaller = load.batch_size // 2
        accumulated = -(-cfg.grad_accum_steps * load.batch_size // smaller)
        others[f"batch_size={smaller} grad_accum_steps={accumulated}"] = replace(load, batch_size=smaller)
    if load.num_tokens > 64:
        half = load.num_tokens // 2
        shorter = replace(load, num_tokens=half, num_targets=min(half, load.num_targets))
        others[f"data.max_seq_len={half}"] = shorter
    if load.optimizer == "adamw":
        others["optim.name=sgd"] = replace(load, optimizer="sgd")
    ways = [(way, now.total - estimate_memory(model, other).total) for way, other in others.items()]
    if all(parameter.requires_grad for parameter in model.parameters()):
        ways.append(("the recipe lora_finetune", now.gradients + now.optimizer + now.checkpoint))
    if next(model.parameters()).dtype == torch.float32:
        ways.append(("dtype=bf16", now.total - estimate_memory(model.to(torch.bfloat16), load).total))
    return sorted(ways, key=lambda way: -way[1])
