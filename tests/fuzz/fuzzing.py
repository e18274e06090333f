"""Feeds a reader damaged files, and demands that it reads each or refuses it with an error of ours, soon.

    fuzz(read, seeds, seconds)

mutates the seeds for so many seconds. A mutant that is refused in a new way becomes a seed itself, so that
the search goes on from where it has come. What it finds is kept, and raised as `Finding`.
"""

import random
import re
import resource
import signal
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from tune_checkpoint import CheckpointError

SECONDS_PER_INPUT = 10
MEMORY_BYTES = 1 << 30
"""More than the process had when it began, and far more than the seeds justify."""
MAX_BYTES = 20_000
MAX_SEEDS = 2_000

IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""A folder where writing a file costs microseconds."""
STATM = Path("/proc/self/statm")

Read = Callable[[Path], object]


class Finding(AssertionError):
    """A file that is neither read nor refused as it should be. The message says where it is kept."""


class TooSlow(BaseException):
    """An input takes longer than it may; no reader catches this."""


class Target(NamedTuple):
    """A reader to be fuzzed."""

    name: str
    read: Read
    """Reads a file, and checks what it gives back."""
    seeds: Callable[[], list[bytes]]
    tokens: Sequence[bytes] = ()
    """What the format is made of, to be put in anywhere."""
    wrap: Callable[[bytes], bytes] = bytes
    """Makes the file of a mutant, where only a part of it is mutated."""


def fuzz_target(target: Target, seconds: float, *, seed: int | None = None) -> int:
    """`fuzz` with what a target says."""
    return fuzz(target.read, target.seeds(), seconds, tokens=target.tokens, wrap=target.wrap, seed=seed)


def fuzz(
    read: Read,
    seeds: Sequence[bytes],
    seconds: float,
    *,
    tokens: Sequence[bytes] = (),
    wrap: Callable[[bytes], bytes] = bytes,
    seed: int | None = None,
) -> int:
    """Try a reader on mutants of sound files.

    Args:
        read: reads a file; may raise `CheckpointError` and nothing else.
        seeds: sound inputs, each of which must be read.
        seconds: how long to go on.
        tokens: what the format is made of.
        wrap: makes the file of an input.
        seed: of the random numbers, to do the same again.

    Returns:
        How many inputs were tried.

    Raises:
        Finding: another exception came out, or it took too long or too much memory.
    """
    seed = random.randrange(1 << 32) if seed is None else seed
    rng = random.Random(seed)
    pool = list(seeds)
    seen: set[str] = set()
    deadline = time.monotonic() + seconds
    count = 0
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder, _bounded_memory():
        path = Path(folder) / "input"
        for sound in seeds:
            path.write_bytes(wrap(sound))
            read(path)
        while time.monotonic() < deadline:
            content = mutated(rng, pool, tokens)
            path.write_bytes(wrap(content))
            outcome = _outcome(read, path, seed)
            count += 1
            if outcome not in seen and len(pool) < MAX_SEEDS:
                seen.add(outcome)
                pool.append(content)
    return count


def _outcome(read: Read, path: Path, seed: int) -> str:
    """What became of an input, without the numbers and names in it."""
    try:
        with _bounded_time():
            read(path)
    except CheckpointError as error:
        return re.sub(r"\d+|'[^']*'|\"[^\"]*\"", "#", str(error))
    except (Exception, TooSlow) as error:
        kept = Path(tempfile.mkdtemp(prefix="finding-")) / "input"
        kept.write_bytes(path.read_bytes())
        raise Finding(
            f"{type(error).__name__}: {error!s:.500} (seed {seed}, the file is kept as {kept})"
        ) from error
    return "read"


@contextmanager
def _bounded_time() -> Generator[None]:
    def stop(signum: int, frame: FrameType | None) -> None:
        raise TooSlow(f"more than {SECONDS_PER_INPUT} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS_PER_INPUT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@contextmanager
def _bounded_memory() -> Generator[None]:
    limits = resource.getrlimit(resource.RLIMIT_AS)
    if not STATM.exists():  # not Linux, which alone says how much there is already
        yield
        return
    used = int(STATM.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def mutated(rng: random.Random, pool: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    """A seed with one to eight changes."""
    content = bytearray(rng.choice(pool))
    for _ in range(1 << rng.randrange(4)):
        change = rng.choice(_CHANGES)
        change(rng, content, pool, tokens)
    return bytes(content[:MAX_BYTES])


Change = Callable[[random.Random, bytearray, Sequence[bytes], Sequence[bytes]], None]


def _flip_bit(rng: random.Random, content: bytearray, *_: object) -> None:
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def _set_byte(rng: random.Random, content: bytearray, *_: object) -> None:
    if content:
        content[rng.randrange(len(content))] = rng.randrange(256)


def _set_number(rng: random.Random, content: bytearray, *_: object) -> None:
    """A number of 2, 4 or 8 bytes becomes one at the edge of something."""
    width = rng.choice((2, 4, 8))
    edges = (0, 1, -1, len(content), len(content) - 1, 1 << (8 * width - 1), (1 << (8 * width - 1)) - 1)
    number = rng.choice(edges) + rng.choice((0, 0, 1, -1))
    start = rng.randrange(len(content) + 1)
    content[start : start + width] = (number % (1 << 8 * width)).to_bytes(width, "little")


def _nudge_byte(rng: random.Random, content: bytearray, *_: object) -> None:
    if content:
        index = rng.randrange(len(content))
        content[index] = (content[index] + rng.choice((1, -1))) % 256


def _insert_token(
    rng: random.Random, content: bytearray, pool: Sequence[bytes], tokens: Sequence[bytes]
) -> None:
    token = rng.choice(tokens) if tokens else rng.randbytes(rng.randrange(1, 9))
    start = rng.randrange(len(content) + 1)
    replaced = rng.choice((0, 0, len(token)))
    content[start : start + replaced] = token


def _delete(rng: random.Random, content: bytearray, *_: object) -> None:
    start = rng.randrange(len(content) + 1)
    del content[start : start + rng.choice((1, 2, 4, 8, 64))]


def _repeat(rng: random.Random, content: bytearray, *_: object) -> None:
    start = rng.randrange(len(content) + 1)
    piece = content[start : start + rng.choice((1, 2, 4, 16, 256))]
    content[start:start] = piece * rng.choice((1, 1, 2, 50))


def _cut(rng: random.Random, content: bytearray, *_: object) -> None:
    del content[rng.randrange(len(content) + 1) :]


def _splice(rng: random.Random, content: bytearray, pool: Sequence[bytes], tokens: object) -> None:
    other = rng.choice(pool)
    start = rng.randrange(len(other) + 1)
    at = rng.randrange(len(content) + 1)
    length = rng.choice((8, 64, 1024))
    content[at : at + rng.choice((0, length))] = other[start : start + length]


_CHANGES: tuple[Change, ...] = (
    *(_flip_bit, _set_byte, _set_number, _nudge_byte, _insert_token),
    *(_insert_token, _delete, _repeat, _cut, _splice),
)
