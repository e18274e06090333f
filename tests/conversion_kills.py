"""Kills conversions at random moments, again and again, and holds what comes of them against an unbroken one.

uv run python tests/conversion_kills.py [--kills 100] [--seed N]
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tune_checkpoint import convert

SHARD_BYTES = 5_000_000
LAYERS = 24
SHAPE = (1000, 1200)
CONVERT = """
import sys
from tune_checkpoint import convert
convert(sys.argv[1], sys.argv[2], dtype="fp16", max_shard_size=int(sys.argv[3]))
"""


def make_source(folder: Path) -> None:
    """Write a model of 115 MB, which becomes 12 files."""
    folder.mkdir()
    values = np.random.default_rng(5).standard_normal((LAYERS, *SHAPE), np.float32)
    weights = {f"model.layers.{layer}.mlp.up_proj.weight": values[layer] for layer in range(LAYERS)}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (folder / "tokenizer.json").write_text("{}")


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def convert_through_kills(source: Path, out: Path, dice: random.Random) -> int:
    """Start a conversion until the folder stands there, and return how many were killed.

    Raises:
        AssertionError: Something was left beside it, or one that was not killed has failed.
    """
    kills = 0
    while True:
        process = subprocess.Popen([sys.executable, "-c", CONVERT, str(source), str(out), str(SHARD_BYTES)])
        try:
            assert process.wait(dice.uniform(0.1, 0.7)) == 0
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            if not out.exists():
                continue
            # It was killed between its last step and its end, and the folder has to be whole.
        assert not list(out.parent.glob(f".{out.name}.*")), "nothing is left beside it"
        return kills


def run(num_kills: int, seed: int, place: Path) -> tuple[int, int]:
    """Convert until so many were killed, and return how many were, and how many came to an end."""
    source, dice = place / "source", random.Random(seed)
    make_source(source)
    convert(source, place / "unbroken", dtype="fp16", max_shard_size=SHARD_BYTES)
    expected = contents(place / "unbroken")
    kills = ends = 0
    while kills < num_kills:
        out = place / f"out_{ends}"
        kills += convert_through_kills(source, out, dice)
        ends += 1
        assert contents(out) == expected
    return kills, ends


def main() -> None:
    """Say how it went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 16))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        kills, ends = run(arguments.kills, arguments.seed, Path(folder))
    print(f"{kills} conversions were killed, {ends} came to an end: all the same as the unbroken one")


if __name__ == "__main__":
    main()
