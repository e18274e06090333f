"""How fast `tune download` is beside `hf download`: the same files, from a Hub on this machine.

    uv run python benchmarks/download.py [--gigabytes 2] [--rounds 5] [--in FOLDER]

The Hub of the tests serves random weights and small files from a process of its own, so that the network
does not count. Both are whole processes that begin with an empty cache and an empty folder, in another order
each round, each after what came before has reached the disk. `tune` checks the SHA-256 of every file and
waits until it is on the disk; `hf` looks at the sizes. The table has medians, and the medians of each
round's ratios.
"""

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from measure import Cost, run

ROUNDS = 5
SETTLE_S = 2
SHARDS = 4
SMALL_FILES, SMALL_BYTES = 50, 20_000
REPOSITORY = "acme/model"
COMMANDS = Path(sys.executable).parent
SERVE = """
import sys
from pathlib import Path
from hub.server import Hub
hub = Hub(Path(sys.argv[1])).start()
hub.add(sys.argv[2], {path.name: path for path in Path(sys.argv[3]).iterdir()})
print(hub.url, flush=True)
hub.join()
"""


def make_files(folder: Path, gigabytes: float) -> int:
    """Write the files of a repository, and return their bytes."""
    folder.mkdir()
    for number in range(1, SHARDS + 1):
        left = round(gigabytes * 1e9 / SHARDS)
        with (folder / f"model-{number:05d}-of-{SHARDS:05d}.safetensors").open("wb") as shard:
            while left:
                left -= shard.write(random.randbytes(min(left, 1 << 24)))
    for number in range(SMALL_FILES):
        (folder / f"tokens_{number:02d}.json").write_bytes(random.randbytes(SMALL_BYTES))
    return sum(path.stat().st_size for path in folder.iterdir())


@contextmanager
def served(files: Path, contents: Path) -> Generator[str]:
    """Serve the files from a process of its own, and give the address."""
    tests = Path(__file__).parents[1] / "tests"
    command = [sys.executable, "-c", SERVE, contents, REPOSITORY, files]
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(tests)}, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip() or sys.exit("the Hub did not start")
    finally:
        process.kill()
        process.wait()


def downloaded(command: list[str], place: Path, size: int) -> Cost:
    """Download into an empty folder, with an empty cache, on a disk that is at rest."""
    os.sync()
    time.sleep(SETTLE_S)
    cost = run(command)
    found = sum(path.stat().st_size for path in (place / "out").glob("[!.]*"))
    assert found == size, f"{found:,} bytes of {size:,} are there"
    shutil.rmtree(place / "out")
    shutil.rmtree(place / "home", ignore_errors=True)
    return cost


def compare(place: Path, size: int, rounds: int) -> None:
    """Print the table."""
    out = str(place / "out")
    ways = {
        "`hf download`": [str(COMMANDS / "hf"), "download", REPOSITORY, "--local-dir", out],
        "`tune download`": [str(COMMANDS / "tune"), "download", REPOSITORY, "--output-dir", out],
    }
    order = random.Random(0)
    costs: dict[str, list[Cost]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way in order.sample(list(ways), len(ways)):
            costs[way].append(downloaded(ways[way], place, size))
    print(
        f"| {size / 1e9:.1f} GB in {SHARDS + SMALL_FILES} files | GB/s | of `hf` | CPU s | peak memory, MB |"
    )
    print("|---|---|---|---|---|")
    for way, taken in costs.items():
        pairs = zip(costs["`hf download`"], taken, strict=True)
        row = (
            way,
            f"{size / statistics.median(each.wall_s for each in taken) / 1e9:.2f}",
            f"{statistics.median(theirs.wall_s / each.wall_s for theirs, each in pairs):.2f}",
            f"{statistics.median(each.cpu_s for each in taken):.1f}",
            f"{max(each.peak_bytes for each in taken) / 1e6:,.0f}",
        )
        print(f"| {' | '.join(row)} |", flush=True)


def main() -> None:
    """Make the files, serve them, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--in", dest="folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        place = Path(name)
        size = make_files(place / "files", arguments.gigabytes)
        with served(place / "files", place / "contents") as address:
            os.environ.pop("HF_TOKEN", None)  # which this Hub does not know
            os.environ |= {
                "HF_ENDPOINT": address,
                "HF_HOME": str(place / "home"),
                "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_DISABLE_TELEMETRY": "1",
                "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            }
            compare(place, size, arguments.rounds)


if __name__ == "__main__":
    main()
