"""How long `tune` takes to start, beside bare Python: CPU time of the whole process.

    uv run python benchmarks/startup.py

Bare Python and the commands run in turn, round after round, so that a change in the machine's speed meets all
of them; the figure is the median of the ratios.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from measure import run

BARE = [sys.executable, "-c", "pass"]
COMMANDS = [
    "tune",
    "tune --help",
    "tune --version",
    "tune run --help",
    "tune ls",
    "tune ls --json",
    "tune cat demo_full_finetune",
    "tune comand",
    "tune run full_finetune --help",
    "tune validate demo_full_finetune",
    "tune run full_finetune --config demo_full_finetune optim.lrr=1",
]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    tune = shutil.which("tune", path=str(Path(sys.executable).parent)) or sys.exit(
        "tune is not installed here"
    )
    with tempfile.TemporaryDirectory() as folder:
        bare: list[float] = []
        seconds: dict[str, list[float]] = {command: [] for command in COMMANDS}
        for number in range(rounds + 1):
            taken = {"": run(BARE, cwd=Path(folder)).cpu_s}
            for command in COMMANDS:
                words = [tune, *command.split()[1:]]
                taken[command] = run(words, cwd=Path(folder), expect=None).cpu_s
            if number:  # the first round only warms the bytecode and the disk
                bare.append(taken[""])
                for command in COMMANDS:
                    seconds[command].append(taken[command])
    print(f"| command (median of {rounds}) | CPU ms | x bare Python |\n|---|---|---|")
    print(f"| `python -c pass` | {statistics.median(bare) * 1e3:.0f} | 1.00 |")
    for command, taken_s in seconds.items():
        ratio = statistics.median(one / other for one, other in zip(taken_s, bare, strict=True))
        print(f"| `{command}` | {statistics.median(taken_s) * 1e3:.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
