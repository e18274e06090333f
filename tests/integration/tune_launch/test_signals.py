"""A launch stops as it is told to: cleanly if it may, and leaves nobody behind if it may not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

STOPS = """
def note(signum, _):
    with open(here / f"got_{rank}", "a") as file:
        file.write(f"{signum} ")
    stopped.append(signum)
stopped = []
for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(signum, note)
ready()
while not stopped:
    time.sleep(0.01)
"""


def gone(pid: int) -> bool:
    """Tell whether a process has ended within seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.01)
    return False


def test_ctrl_c_reaches_each_process_once_and_all_may_take_their_time(start, tmp_path):
    launcher = start(
        STOPS
        + "if rank == 0:\n"
        + "    time.sleep(0.7)  # saves, while the other has already gone\n"
        + "    ready('saved')\n"
        + "sys.exit(130)\n"
    )
    launcher.wait_for("ready_0", "ready_1")
    launcher.send(signal.SIGINT)
    done = launcher.end()
    assert (done.status, done.out, done.err) == (130, "", "")
    assert (tmp_path / "saved_0").exists()
    assert [(tmp_path / f"got_{rank}").read_text() for rank in (0, 1)] == ["2 ", "2 "]


def test_a_second_ctrl_c_ends_who_does_not_stop(start, tmp_path):
    launcher = start(
        STOPS + "if rank == 0:\n    sys.exit(130)\nready('stuck')\ntime.sleep(60)\n",
        max_restarts=5,
        before="from tune_launch import watch; watch.LAST_CALL_S = 1.0",
    )
    launcher.wait_for("ready_0", "ready_1")
    launcher.send(signal.SIGINT)
    launcher.wait_for("stuck_1")
    launcher.send(signal.SIGINT)
    done = launcher.end()
    assert done.status == 130
    assert done.err == "killed, as they had not stopped: rank 1\n"
    assert done.seconds < 15
    assert (tmp_path / "got_1").read_text() == "2 2 "


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_of_the_scheduler_stops_all(start, signum):
    launcher = start(STOPS + "sys.exit(128 + stopped[0])\n")
    launcher.wait_for("ready_0", "ready_1")
    launcher.send(signum)
    done = launcher.end()
    assert (done.status, done.out, done.err) == (128 + signum, "", "")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_script_that_knows_no_signals_is_stopped_without_a_word(start, signum):
    launcher = start("print('begun', flush=True)\nready()\ntime.sleep(60)\n")
    launcher.wait_for("ready_0", "ready_1")
    launcher.send(signum)
    done = launcher.end()
    assert (done.status, done.out, done.err) == (128 + signum, "begun\n", "")


def test_a_signal_at_any_moment_of_the_start_is_a_clean_stop(start):
    for delay in (0.0, 0.05, 0.1, 0.2):
        launcher = start("time.sleep(60)\n")
        deadline = time.monotonic() + 30
        while not launcher.has_begun and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(delay + 0.01)
        launcher.send(signal.SIGINT)
        done = launcher.end()
        assert (done.status, done.out, done.err) == (130, "", ""), delay


def test_a_ctrl_c_that_was_caught_is_forgotten(launched):
    done = launched(
        "try:\n    exec('raise KeyboardInterrupt')\nexcept KeyboardInterrupt:\n    sys.exit(130)\n"
    )
    assert (done.status, done.out, done.err) == (130, "", "")


def test_ctrl_c_while_pytorch_is_imported_is_a_clean_stop(as_script, tmp_path):
    code = (
        "import signal, sys, threading, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from tune_launch import LaunchSpec, launch\n"
        "def tell():\n"
        "    while 'torch' not in sys.modules: time.sleep(0.001)\n"
        "    print('importing', flush=True)\n"
        "threading.Thread(target=tell, daemon=True).start()\n"
        "sys.exit(launch(LaunchSpec(script=sys.argv[1], processes=2)))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, as_script("ready()\n")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    assert not (tmp_path / "ready_0").exists()


def test_a_failure_while_stopping_is_a_failure_and_starts_nothing_again(start, tmp_path):
    launcher = start(STOPS + "if rank == 1:\n    raise OSError('disk full')\nsys.exit(130)\n", max_restarts=2)
    launcher.wait_for("ready_0", "ready_1")
    launcher.send(signal.SIGINT)
    done = launcher.end()
    assert done.status == 1
    assert done.err.startswith("error: rank 1 failed: OSError: disk full\n")
    assert (tmp_path / "got_0").read_text().split()[0] == "2"


def test_what_nohup_ignores_stays_ignored(start):
    launcher = start(
        "print(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN, flush=True)\nready()\nwait_for('end')\n",
        before="import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)",
    )
    launcher.wait_for("ready_0", "ready_1")
    launcher.send(signal.SIGHUP)
    time.sleep(0.3)
    (launcher.folder / "end").touch()
    done = launcher.end()
    assert (done.status, done.out, done.err) == (0, "True\n", "")


def test_nobody_survives_the_launcher(start):
    launcher = start("signal.signal(signal.SIGTERM, signal.SIG_IGN)\nready()\ntime.sleep(60)\n")
    pids = launcher.wait_for("ready_0", "ready_1")
    launcher.send(signal.SIGKILL)
    assert launcher.end().status == -signal.SIGKILL
    assert all(gone(pid) for pid in pids)


def test_the_next_launch_clears_up_what_a_killed_one_left_but_not_what_another_holds(start, tmp_path):
    def folders() -> set[Path]:
        return set(tmp_path.glob("tune-launch-*"))

    killed = start("ready('killed')\ntime.sleep(60)\n")
    killed.wait_for("killed_0", "killed_1")
    left = folders()
    killed.send(signal.SIGKILL)
    killed.end()
    assert len(left) == 1 and folders() == left
    other = start("ready('other')\nwait_for('end')\n")
    other.wait_for("other_0", "other_1")
    held = folders()
    assert len(held) == 1 and held != left
    assert start("pass\n").end().status == 0
    assert folders() == held
    (tmp_path / "end").touch()
    assert other.end().status == 0
    assert folders() == set()


CLOSED = """
import os
reader, writer = os.pipe()
os.close(reader)
os.dup2(writer, 2)
from tune_launch import watch
watch.PATIENCE_S = 0.1
"""


def test_a_terminal_that_is_closed_lets_all_save(start, tmp_path):
    launcher = start(
        STOPS + "if rank == 0:\n    time.sleep(0.5)\n    ready('saved')\nsys.exit(129)\n", CLOSED
    )
    launcher.wait_for("ready_0", "ready_1")
    launcher.send(signal.SIGHUP)
    assert launcher.end().status == 129
    assert (tmp_path / "saved_0").exists()


def test_who_slept_with_the_launcher_is_let_be(start):
    launcher = start("ready()\nwait_for('end')\n", hang_timeout_s=1.5)
    sleeper, _ = launcher.wait_for("ready_0", "ready_1")
    os.kill(sleeper, signal.SIGSTOP)
    launcher.send(signal.SIGSTOP)
    time.sleep(1.7)
    launcher.send(signal.SIGCONT)
    time.sleep(0.15)  # it looks before the other is awake
    os.kill(sleeper, signal.SIGCONT)
    (launcher.folder / "end").touch()
    assert launcher.end().status == 0


def test_who_is_late_to_stop_is_named_once(start):
    launcher = start(
        STOPS + "if rank == 0:\n    time.sleep(0.8)\nsys.exit(143)\n",
        before="from tune_launch import watch; watch.PATIENCE_S = 0.3",
    )
    pid, _ = launcher.wait_for("ready_0", "ready_1")
    launcher.send(signal.SIGTERM)
    done = launcher.end()
    assert done.status == 143
    assert done.err == f"still waiting for rank 0 (process {pid}) to stop; Ctrl-C ends it at once\n"
