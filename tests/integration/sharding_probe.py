"""Looks into a model that is split over processes; started by torchrun, tells what it saw as JSON."""

import json
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import torch

from tune_recipes.lora import add_lora, init_lora_, lora_state_dict, merge_lora_, save_adapter
from tune_recipes.models.config import read_model_config
from tune_recipes.models.decoder import Decoder
from tune_recipes.models.export import save_model
from tune_recipes.models.load import allocate_, load_model, load_weights_, meta_model
from tune_recipes.models.sharded import local_part, whole
from tune_recipes.train.distributed import ToldElsewhere, World, join_world, shard

IDS = torch.arange(24).reshape(2, 12)


def split_model(source: Path, world: World, dtype: torch.dtype = torch.float32) -> Decoder:
    model = meta_model(read_model_config(source), dtype=dtype)
    shard(model, world.mesh)
    allocate_(model, world.device)
    load_weights_(model, source)
    return model


def look(source: Path, out: Path, world: World) -> dict[str, Any]:
    reference = load_model(source, dtype=torch.float32)
    split_model(source, world)  # whatever is imported and kept for later is now
    tracemalloc.start()
    model = split_model(source, world)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    parameters = list(model.parameters())
    seen: dict[str, Any] = {
        "read_at_once": peak,
        "largest": max(parameter.nbytes for parameter in parameters),
        "held": sum(local_part(parameter).nbytes for parameter in parameters),
        "in_all": sum(parameter.nbytes for parameter in parameters),
        "is_tied": model.lm_head.weight is model.model.embed_tokens.weight,
        "same_weights": all(
            torch.equal(whole(parameter), reference.get_parameter(name))
            for name, parameter in model.named_parameters()
        ),
        "logits_differ_by": (model(IDS) - reference(IDS)).abs().max().item(),
    }
    model(IDS).float().square().mean().backward()
    reference(IDS).float().square().mean().backward()
    differences = []
    for name, parameter in model.named_parameters():
        mine, theirs = parameter.grad, reference.get_parameter(name).grad
        assert mine is not None and theirs is not None
        differences.append((whole(mine) - theirs).abs().max().item())
    seen["gradients_differ_by"] = max(differences)
    save_model(model, out / "exported", config=model.config, source=source, world=world)
    seen["adapter"] = look_at_adapter(source, out, world)
    seen["told"] = [fails(world), fails(world, while_gathering=list(model.parameters()))]
    return seen


def look_at_adapter(source: Path, out: Path, world: World) -> dict[str, Any]:
    """A frozen bfloat16 model and a float32 adapter beside it, in the same units."""
    model = meta_model(read_model_config(source), dtype=torch.bfloat16)
    add_lora(model, rank=3, alpha=6)
    shard(model, world.mesh)
    allocate_(model, world.device)
    load_weights_(model, source)
    init_lora_(model, seed=world.size)
    model(IDS).float().square().mean().backward()
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    with torch.no_grad():
        for tensor in lora_state_dict(model).values():
            local_part(tensor).add_(0.01)
    save_adapter(model, out / "adapter", base=str(source), world=world)
    merge_lora_(model)
    save_model(model, out / "merged", config=model.config, source=source, world=world)
    return {"trained_alone": all(".lora_" in name for name in with_gradient), "count": len(with_gradient)}


def fails(world: World, while_gathering: list[torch.Tensor] | None = None) -> str:
    """What the first process raises reaches the others as a word that it was told there."""

    def fail(*_: object) -> None:
        raise OSError("no room")

    try:
        if while_gathering:
            world.one_by_one(while_gathering, lambda gather: fail(gather(while_gathering[3])))
        else:
            world.from_first(fail)
    except (OSError, ToldElsewhere) as error:
        return type(error).__name__
    return "nothing"


if __name__ == "__main__":
    source, out = map(Path, sys.argv[1:])
    torch.set_num_threads(1)
    with join_world() as world:
        found = world.gather(look(source, out, world))
        if world.is_first:
            (out / "seen.json").write_text(json.dumps(found))
