"""Breaks runs of two processes in the ways that machines do, and compares them with an unbroken one.

    uv run python tests/fault_injector.py --faults 200 --seed 1

Each fault comes at a random step; then the run goes on with `tune run --resume`, and meets the next. After
each one: nothing of the run is alive, no half checkpoint is taken for whole, and what goes on begins at the
last checkpoint. At the end losses and weights are, bit for bit, those of the unbroken run.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from support import TINY, TUNE, losses

NUM_STEPS = 500
SAVE_EVERY = 10
PATIENCE_S = 120.0
RUN = (
    *("run", "full_finetune", "--config", "demo_full_finetune", *TINY, f"max_steps={NUM_STEPS}"),
    *(f"checkpoint.save_every={SAVE_EVERY}", "checkpoint.keep_last=2", "--nproc", "2", "--hang-timeout", "4"),
)


class Job:
    """A `tune run` that is going on."""

    def __init__(self, folder: Path, words: Sequence[str]):
        """Start it in a folder."""
        self._printed = folder / "printed"
        with self._printed.open("w") as file:
            self.process = subprocess.Popen([*TUNE, *words], cwd=folder, stdout=file, stderr=file)
        self._folder = folder
        self._places: set[bytes] = set()
        """Where the launcher and its processes leave each other notes."""

    @property
    def run(self) -> Path:
        """The run folder."""
        return next(path for path in (self._folder / "runs").iterdir() if path.is_dir())

    def steps(self) -> int:
        """Steps that are written down."""
        try:
            return (self.run / "metrics.jsonl").read_bytes().count(b"\n")
        except (OSError, StopIteration):
            return 0

    def ranks(self) -> dict[int, int]:
        """Process number of each rank that lives."""
        found: dict[int, int] = {}
        for entry in Path("/proc").glob("[0-9]*"):
            words = _read(entry / "environ").split(b"\0")
            place = next((word[19:] for word in words if word.startswith(b"TUNE_LAUNCH_FOLDER=")), None)
            if place and self._is_mine(place):
                found |= {int(word[5:]): int(entry.name) for word in words if word.startswith(b"RANK=")}
        return found

    def _is_mine(self, place: bytes) -> bool:
        if place not in self._places and self.run.name.encode() in _read(
            Path(os.fsdecode(place)) / "job.json"
        ):
            self._places.add(place)  # it may be gone before the processes are
        return place in self._places

    def end(self) -> tuple[int, str]:
        """Wait until it has ended, with all its processes; return its exit status and what it printed."""
        code = self.process.wait(PATIENCE_S)
        until(lambda: not self.ranks(), "processes live on after the run")
        return code, self._printed.read_text()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def until(what: Callable[[], object], failing: str) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        if time.monotonic() > deadline:
            raise AssertionError(failing)
        time.sleep(0.001)


def kill(pid: int, signum: int = signal.SIGKILL) -> None:
    """Send a signal; to be late is no error."""
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return


def kill_a_rank(job: Job, dice: random.Random) -> None:
    """The system kills one process, as it does for want of memory."""
    if pids := list(job.ranks().values()):
        kill(dice.choice(pids))


def kill_all_ranks(job: Job, dice: random.Random) -> None:
    """It kills them all."""
    for pid in job.ranks().values():
        kill(pid)


def kill_the_launcher(job: Job, dice: random.Random) -> None:
    """It kills the one that the user started."""
    kill(job.process.pid)


def stop_a_rank(job: Job, dice: random.Random) -> None:
    """A process hangs; the watchdog must name it and end the run."""
    if not (ranks := list(job.ranks().items())):
        return
    rank, pid = dice.choice(ranks)
    kill(pid, signal.SIGSTOP)
    code, printed = job.end()
    assert (code == 1 and f"rank {rank} " in printed) or "Finished" in printed, printed


def interrupt(job: Job, dice: random.Random) -> None:
    """The user, or a scheduler, asks for an end."""
    signum, expected = dice.choice([(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)])
    kill(job.process.pid, signum)
    code, printed = job.end()
    assert code == expected or "Finished" in printed, printed


def kill_while_saving(job: Job, dice: random.Random) -> None:
    """It comes while a checkpoint is written."""
    checkpoints = job.run / "checkpoints"
    until(lambda: job.process.poll() is not None or list(checkpoints.glob(".step_*.partial")), "no save")
    dice.choice([kill_a_rank, kill_all_ranks, kill_the_launcher])(job, dice)


def kill_at_the_rename(job: Job, dice: random.Random) -> None:
    """It comes when a checkpoint is written and has not got its name, or just has."""
    checkpoints, before = job.run / "checkpoints", len(list((job.run / "checkpoints").glob("step_*")))
    marker = ".step_*.partial/checkpoint.json"
    until(
        lambda: (
            job.process.poll() is not None
            or list(checkpoints.glob(marker))
            or len(list(checkpoints.glob("step_*"))) != before
        ),
        "no save",
    )
    kill(job.ranks().get(0, job.process.pid))


def damage_the_last(job: Job, dice: random.Random) -> None:
    """The disk loses or changes something of the last checkpoint, if there is one before it."""
    kill_the_launcher(job, dice)
    job.end()
    if len(found := whole_checkpoints(job.run)) < 2:
        return
    path = dice.choice([path for path in sorted(found[-1].iterdir()) if path.stat().st_size])
    content = bytearray(path.read_bytes())
    if dice.random() < 0.5:
        del content[dice.randrange(len(content)) :]
    else:
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)


def fill_the_disk(job: Job, dice: random.Random) -> None:
    """There is no room left for the next checkpoint."""
    filler = job.run.parent / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    code, printed = job.end()
    filler.unlink()
    told = re.search(r"the disk is full: .* MB are (missing|free).*\n.* `tune run --resume", printed)
    assert (code == 1 and told and "OSError" not in printed) or "Finished" in printed, printed


FAULTS = (
    *(kill_a_rank, kill_all_ranks, kill_the_launcher, stop_a_rank, interrupt),
    *(kill_while_saving, kill_at_the_rename, damage_the_last, fill_the_disk),
)


def whole_checkpoints(run: Path) -> list[Path]:
    """Return the checkpoints whose files are what their markers say, looked at by other means than ours."""
    whole: list[Path] = []
    for marker in sorted((run / "checkpoints").glob("step_*/checkpoint.json")):
        try:
            files = json.loads(marker.read_bytes())["files"]
            sums = {name: hashlib.sha256((marker.parent / name).read_bytes()).hexdigest() for name in files}
        except (OSError, ValueError, KeyError):
            continue
        if sums == {name: about["sha256"] for name, about in files.items()}:
            whole.append(marker.parent)
    return whole


def step_of(checkpoints: list[Path]) -> int:
    """Return the step of the last of them, 0 without any."""
    return int(checkpoints[-1].name.removeprefix("step_")) if checkpoints else 0


def unbroken(folder: Path) -> Path:
    """Run to the end and return the run folder."""
    folder.mkdir()
    job = Job(folder, RUN)
    code, printed = job.end()
    assert code == 0, printed
    return job.run


def broken(
    folder: Path, faults: Sequence[Callable[[Job, random.Random], None]], dice: random.Random
) -> tuple[Path, int]:
    """Run to the end through these faults; return the run folder, and how many came before the end."""
    mounted = _small_disk(folder)
    try:
        run, num_faults = _broken(folder, faults, dice)
        if mounted:  # what is on it goes with it
            run = shutil.copytree(run, folder / "ended")
        return run, num_faults
    finally:
        if mounted:
            subprocess.run(["umount", "-l", folder / "runs"], check=True)


def _broken(
    folder: Path, faults: Sequence[Callable[[Job, random.Random], None]], dice: random.Random
) -> tuple[Path, int]:
    job, num_faults = Job(folder, RUN), 0
    for wanted in faults:
        without_disk = wanted is fill_the_disk and not os.path.ismount(folder / "runs")
        fault = kill_a_rank if without_disk else wanted
        goal = job.steps() + dice.randint(1, 3 * SAVE_EVERY)
        until(lambda: job.process.poll() is not None or job.steps() >= goal, "no step is taken")  # noqa: B023
        if job.process.poll() is None and job.steps() < NUM_STEPS:
            num_faults += 1
            seen = step_of(whole_checkpoints(job.run))
            fault(job, dice)
            _, printed = job.end()
            now = step_of(whole_checkpoints(job.run))
            assert now >= seen or fault is damage_the_last, f"{fault.__name__}: {seen} was whole, now {now}"
            lost = job.steps() - now
            assert lost <= 3 * SAVE_EVERY or fault is damage_the_last, f"{fault.__name__}: lost {lost} steps"
            print(f"  {fault.__name__:<20} at step {job.steps():>3}, goes on from {now:>3}", flush=True)
        expected = step_of(whole_checkpoints(job.run))
        job = Job(folder, ("run", "--resume", str(job.run), "--hang-timeout", "4"))
        _check_begin(job, expected)
    code, printed = job.end()
    assert code == 0, printed
    return job.run, num_faults


def _check_begin(job: Job, expected: int) -> None:
    """See that it goes on after the last checkpoint that is whole."""
    log, before = job.run / "log.txt", (job.run / "log.txt").read_text().count("Going on with")

    def said() -> str:
        text = log.read_text()
        return text.rpartition("Going on with")[2] if text.count("Going on with") > before else ""

    begun = re.compile("^(step |Going on after|Finished).*\n", re.MULTILINE)
    until(lambda: job.process.poll() is not None or begun.search(said()), "it does not start")
    assert not expected or f"Going on after step {expected}\n" in said(), said()


def assert_same(run: Path, reference: Path) -> None:
    """Compare losses and weights, bit for bit."""
    assert losses(run) == losses(reference)
    mine, theirs = (path / "final" / "model.safetensors" for path in (run, reference))
    assert mine.read_bytes() == theirs.read_bytes()


def _small_disk(folder: Path) -> bool:
    """Put a run's folder on a file system of its own, where the system lets us."""
    (folder / "runs").mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder / "runs"]
    return bool(shutil.which("mount")) and subprocess.run(command, capture_output=True).returncode == 0


def main() -> None:
    """Inject as many faults as are asked for, some in each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--faults", type=int, default=200, help="how many (200)")
    parser.add_argument("--each", type=int, default=8, help="how many in one run (8)")
    parser.add_argument("--seed", type=int, default=0, help="decides which, and when (0)")
    words = parser.parse_args()
    dice = random.Random(words.seed)
    with tempfile.TemporaryDirectory() as place:
        reference = unbroken(Path(place) / "unbroken")
        total = number = 0
        while total < words.faults:
            number += 1
            print(f"run {number}:", flush=True)
            run, num_faults = broken(Path(place) / f"run{number}", dice.choices(FAULTS, k=words.each), dice)
            assert_same(run, reference)
            total += num_faults
    print(f"{total} faults in {number} runs; losses and weights are those of the unbroken run, bit for bit")


if __name__ == "__main__":
    main()
