"""How fast checkpoints are converted, and in how much memory, beside `cp` and transformers' own converter.

    uv run python benchmarks/conversion.py [--gigabytes 8] [--in FOLDER]

Made models of Llama 3's shape, random, in bf16. Each source is copied by `cp`, and converted without and with
verification, in another order each round, each time after what came before has reached the disk: what is
left of it (writing, giving back the room of deleted files) slows down whoever comes next. A conversion ends
when all is on the disk, so `cp` is timed until then, too. The table has medians, and the medians of each
round's ratios. The last part converts a Meta checkpoint of two shards beside transformers 4.45.2, the last
version with a converter, which holds the model in memory about twice.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measure import Cost, run

if TYPE_CHECKING:
    import torch

ROUNDS = 5
SETTLE_S = 2
HIDDEN, FEED_FORWARD, HEADS, KV_HEADS, VOCAB = 4096, 14336, 32, 8, 32000
LAYER_BYTES = 2 * (2 * HIDDEN * HIDDEN + 2 * HIDDEN * HIDDEN * KV_HEADS // HEADS + 3 * HIDDEN * FEED_FORWARD)
CONVERT = (str(Path(sys.executable).with_name("tune-checkpoint")), "convert")


def num_layers(gigabytes: float) -> int:
    """Return how many layers make a model of so many bytes."""
    return max(1, round((gigabytes * 1e9 - 4 * VOCAB * HIDDEN) / LAYER_BYTES))


def in_a_process(make: Callable[..., None], *arguments: Any) -> None:
    """Call a function elsewhere: the system counts the memory of who starts a process as that process's."""
    process = multiprocessing.get_context("spawn").Process(target=make, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{make.__name__} failed")


def random_weights(shape: tuple[int, ...]) -> "torch.Tensor":
    """Return finite random bf16 values, made quickly."""
    import torch

    return torch.randint(0, 0x3F80, shape, dtype=torch.int16).view(torch.bfloat16)


def make_meta(folder: Path, layers: int, shards: int) -> None:
    """Write a model as Meta publishes it, of so many model-parallel shards."""
    import torch

    folder.mkdir()
    rows = {"wq": HIDDEN, "wk": HIDDEN * KV_HEADS // HEADS, "wv": HIDDEN * KV_HEADS // HEADS}
    for shard in range(shards):
        weights = {"tok_embeddings.weight": random_weights((VOCAB // shards, HIDDEN))}
        for layer in range(layers):
            name = f"layers.{layer}."
            for key, size in rows.items():
                weights[f"{name}attention.{key}.weight"] = random_weights((size // shards, HIDDEN))
            weights[f"{name}attention.wo.weight"] = random_weights((HIDDEN, HIDDEN // shards))
            for key in ("w1", "w3"):
                weights[f"{name}feed_forward.{key}.weight"] = random_weights((FEED_FORWARD // shards, HIDDEN))
            weights[f"{name}feed_forward.w2.weight"] = random_weights((HIDDEN, FEED_FORWARD // shards))
            for key in ("attention_norm", "ffn_norm"):
                weights[f"{name}{key}.weight"] = torch.ones(HIDDEN, dtype=torch.bfloat16)
        weights["norm.weight"] = torch.ones(HIDDEN, dtype=torch.bfloat16)
        weights["output.weight"] = random_weights((VOCAB // shards, HIDDEN))
        torch.save(weights, folder / f"consolidated.{shard:02d}.pth")
    params = {
        "dim": HIDDEN, "n_layers": layers, "n_heads": HEADS, "n_kv_heads": KV_HEADS, "vocab_size": VOCAB,
        "multiple_of": 1024, "ffn_dim_multiplier": 1.3, "norm_eps": 1e-5, "rope_theta": 500000.0,
    }  # fmt: skip
    (folder / "params.json").write_text(json.dumps(params))


def make_bin(source: Path, folder: Path) -> None:
    """Write a Hugging Face folder's weights as `pytorch_model.bin` in shards."""
    import torch
    from safetensors.torch import load_file

    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    weight_map: dict[str, str] = {}
    files = sorted(source.glob("*.safetensors"))
    for number, path in enumerate(files, 1):
        name = f"pytorch_model-{number:05d}-of-{len(files):05d}.bin"
        weights = load_file(path)
        torch.save(weights, folder / name)
        weight_map |= dict.fromkeys(weights, name)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def copied(source: Path, target: Path, *, synced: bool) -> Cost:
    """Copy a folder by `cp`, until that has ended or until all is on the disk, and return the cost."""
    command = f"cp -r --reflink=never {source} {target}" + (f" && sync -d {target}/*" if synced else "")
    return settled(["sh", "-c", command], target)


def converted(source: Path, target: Path, *options: str) -> Cost:
    """Convert and return the cost."""
    return settled([*CONVERT, str(source), "--output-dir", str(target), *options], target)


def settled(command: Sequence[str], target: Path) -> Cost:
    """Run a command on a disk that has nothing else to do, remove what it made, and return its cost."""
    os.sync()
    time.sleep(SETTLE_S)
    cost = run(command)
    shutil.rmtree(target)
    return cost


def compare(label: str, source: Path, place: Path, *options: str) -> None:
    """Print the rows of one source."""
    size = sum(path.stat().st_size for path in source.iterdir())
    out = place / "out"
    ways: dict[str, Callable[[], Cost]] = {
        "`cp`": lambda: copied(source, out, synced=False),
        "`cp`, synced": lambda: copied(source, out, synced=True),
        "not verified": lambda: converted(source, out, "--no-verify", *options),
        "verified": lambda: converted(source, out, *options),
    }
    order = random.Random(0)
    costs: dict[str, list[Cost]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way in order.sample(list(ways), len(ways)):
            costs[way].append(ways[way]())
    for way, taken in costs.items():
        ratios = [
            statistics.median(cp.wall_s / each.wall_s for cp, each in zip(costs[name], taken, strict=True))
            for name in ("`cp`", "`cp`, synced")
        ]
        rate = size / statistics.median(each.wall_s for each in taken) / 1e9
        peak = "" if "cp" in way else f"{max(each.peak_bytes for each in taken) / 1e6:,.0f}"
        row = (f"{label}, {size / 1e9:.1f} GB", way, f"{rate:.2f}", *(f"{r:.2f}" for r in ratios), peak)
        print(f"| {' | '.join(row)} |", flush=True)


TRANSFORMERS = """
import sys
from transformers.models.llama.convert_llama_weights_to_hf import write_model
write_model(
    model_path=sys.argv[2], input_base_path=sys.argv[1], model_size="8B", safe_serialization=True,
    llama_version="3", vocab_size=int(sys.argv[3]), num_shards=int(sys.argv[4]),
)
"""


def compare_with_transformers(source: Path, place: Path, shards: int) -> None:
    """Print the rows of transformers' converter and ours."""
    environment = ["--with", "transformers==4.45.2", "--with", "torch", "--with", "accelerate"]
    command = ["uv", "run", "--quiet", "--no-project", *environment, "python", "-c", TRANSFORMERS]
    theirs_to = place / "theirs"
    costs: dict[str, list[Cost]] = {"transformers 4.45.2": [], "tune-checkpoint, verified": []}
    for _ in range(3):
        costs["transformers 4.45.2"].append(
            run([*command, str(source), str(theirs_to), str(VOCAB), str(shards)])
        )
        shutil.rmtree(theirs_to)
        costs["tune-checkpoint, verified"].append(converted(source, place / "out"))
    first = [cost.wall_s for cost in costs["transformers 4.45.2"]]
    for label, taken in costs.items():
        seconds = [cost.wall_s for cost in taken]
        ratio = statistics.median(theirs / each for theirs, each in zip(first, seconds, strict=True))
        peak = max(cost.peak_bytes for cost in taken) / 1e6
        print(f"| {label} | {statistics.median(seconds):.1f} | {ratio:.1f} | {peak:,.0f} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=8)
    parser.add_argument("--in", dest="folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        place = Path(name)
        layers = num_layers(arguments.gigabytes)
        print(
            "| source | | GB/s | of `cp` | of `cp`, synced | peak memory, MB |\n|---|---|---|---|---|---|",
            flush=True,
        )
        in_a_process(make_meta, place / "meta", layers, 2)
        compare("Meta, 2 shards", place / "meta", place)
        subprocess.run([*CONVERT, place / "meta", "--output-dir", place / "hf"], check=True, stdout=2)
        shutil.rmtree(place / "meta")
        compare("safetensors, to shards of 1 GB", place / "hf", place, "--max-shard-size", "1GB")
        in_a_process(make_bin, place / "hf", place / "bin")
        shutil.rmtree(place / "hf")
        compare("pytorch_model.bin", place / "bin", place)
        shutil.rmtree(place / "bin")
        print("\n| Meta, 2 shards, 1.9 GB | s | faster | peak memory, MB |\n|---|---|---|---|", flush=True)
        in_a_process(make_meta, place / "small", num_layers(1.9), 2)
        compare_with_transformers(place / "small", place, 2)


if __name__ == "__main__":
    main()
