"""Fuzzes every reader for some time: `PYTHONPATH=tests python -m fuzz --seconds 600 [--atheris] [NAME ...]`.

With `--atheris` (and atheris installed) libFuzzer searches, guided by which lines each input reaches; without
it the mutations of `fuzz.fuzzing` do. The exit status is 1 if anything was found.
"""

import argparse
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from fuzz.fuzzing import IN_MEMORY, MAX_BYTES, SECONDS_PER_INPUT, Finding, Target, fuzz_target

MODULES = ("fuzz_torch_file", "fuzz_safetensors", "fuzz_gguf", "fuzz_tokenizers")


def all_targets() -> dict[str, Target]:
    """The readers, by name."""
    return {target.name: target for module in MODULES for target in import_module(f"fuzz.{module}").TARGETS}


def main() -> int:
    """Fuzz the readers that are named, or all, for the same time each."""
    parser = argparse.ArgumentParser(prog="python -m fuzz")
    parser.add_argument("names", nargs="*", help="readers; all if none is given")
    parser.add_argument("--seconds", type=float, default=60, help="in all")
    parser.add_argument("--seed", type=int, help="of the random numbers, to do the same again")
    parser.add_argument("--atheris", action="store_true", help="search by libFuzzer")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        _guided(options.names[0], options.seconds, options.folder)
    names: list[str] = options.names or list(all_targets())
    failed = False
    for name in names:
        seconds = options.seconds / len(names)
        print(f"{name}: {seconds:.0f} s", flush=True)
        if options.atheris:
            with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
                command = [sys.executable, "-m", "fuzz", name, "--seconds", str(seconds), "--folder", folder]
                failed |= subprocess.run(command, check=False).returncode != 0
            continue
        try:
            print(f"  {fuzz_target(all_targets()[name], seconds, seed=options.seed)} inputs", flush=True)
        except Finding as finding:
            print(f"  {finding}", flush=True)
            failed = True
    return int(failed)


def _guided(name: str, seconds: float, folder: Path) -> None:
    """Fuzz one reader by libFuzzer, which ends the process. Findings are kept among temporary files."""
    atheris: Any = import_module("atheris")
    for module in [module for module in sys.modules if module.startswith("tune_checkpoint")]:
        del sys.modules[module]  # to be imported again, with its branches counted
    with atheris.instrument_imports(include=["tune_checkpoint"]):
        target = all_targets()[name]
        from tune_checkpoint.errors import CheckpointError
    (folder / "seeds").mkdir()
    for index, content in enumerate(target.seeds()):
        (folder / "seeds" / str(index)).write_bytes(content)
    # One token a line, each byte as an escape.
    tokens = ("".join(f"\\x{byte:02x}" for byte in token) for token in target.tokens)
    (folder / "tokens").write_text("".join(f'"{token}"\n' for token in tokens))
    path = folder / "input"

    def try_input(content: bytes) -> None:
        path.write_bytes(target.wrap(content))
        with suppress(CheckpointError):
            target.read(path)

    limits = (f"-max_total_time={seconds:.0f}", f"-timeout={SECONDS_PER_INPUT}", "-rss_limit_mb=2048")
    places = (
        f"-dict={folder}/tokens",
        f"-artifact_prefix={tempfile.gettempdir()}/finding-",
        str(folder / "seeds"),
    )
    output = ("-verbosity=0", "-print_final_stats=1")
    atheris.Setup(["fuzz", *limits, f"-max_len={MAX_BYTES}", *output, *places], try_input)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
