"""Where one process fails, its error is what one reads, and nobody waits for the others."""

import json
import time

import pytest

from tune_launch.failure import first_failure
from tune_launch.rank import End


def test_the_error_of_one_ends_all_within_seconds(launched, tmp_path, monkeypatch):
    monkeypatch.setattr("tune_launch.watch.MERCY_S", 1.0)
    done = launched(
        """
if rank == 1:
    wait_for("ready_0")
    raise ValueError("no such thing")
signal.signal(signal.SIGTERM, signal.SIG_IGN)
ready()
time.sleep(60)
""",
        log_dir=str(tmp_path / "logs"),
    )
    assert done.status == 1
    assert done.seconds < 20  # PyTorch's agent would wait 30
    assert done.out == ""
    assert done.err == (
        "error: rank 1 failed: ValueError: no such thing\n"
        f"  exit status 1; its log: {tmp_path}/logs/rank_1.log\n"
    )
    log = (tmp_path / "logs/rank_1.log").read_text().splitlines()
    assert (log[0], log[-1]) == ("Traceback (most recent call last):", "ValueError: no such thing")
    assert sum(line.startswith("  File") for line in log) == 1  # the script's own


def test_what_rank_0_raises_is_told_once_and_its_traceback_kept(launched, tmp_path):
    done = launched("print('begun')\n1 / 0\n", log_dir=str(tmp_path))
    assert done.status == 1
    assert done.out == "begun\n"
    told = "error: rank 0 failed: ZeroDivisionError: division by zero\n"
    assert done.err == f"{told}  exit status 1; its log: {tmp_path}/rank_0.log\n"
    log = (tmp_path / "rank_0.log").read_text().splitlines()
    assert log[:2] == ["begun", "Traceback (most recent call last):"]


def test_without_logs_the_last_lines_are_shown(launched):
    done = launched("for line in range(100):\n    print('line', line)\nsys.exit(3 if rank else 0)\n")
    shown = "".join(f"  line {line}\n" for line in range(80, 100))
    assert done.err == f"error: rank 1 failed (exit status 3)\n  the last that it printed:\n{shown}"


REPORTED = """
def report(text):
    print("error:", text, file=sys.stderr)
    content = {"message": {"message": text, "extraInfo": {"py_callstack": "...", "timestamp": "1"}}}
    pathlib.Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps(content))
"""


def test_the_error_that_a_script_reports_is_told_with_its_own_exit_status(launched, tmp_path):
    script = REPORTED + "if rank == 1:\n    report('wrong\\n  input')\n    sys.exit(2)\ntime.sleep(60)\n"
    done = launched(script, log_dir=str(tmp_path))
    assert done.status == 2
    told = "error: rank 1 failed: wrong\n  input\n"
    assert done.err == f"{told}  exit status 2; its log: {tmp_path}/rank_1.log\n"
    assert (tmp_path / "rank_1.log").read_text() == "error: wrong\n  input\n"


def test_an_error_that_all_have_is_told_by_rank_0_alone(launched, tmp_path):
    script = REPORTED + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    script += "ready()\nwait_for('ready_0'); wait_for('ready_1')\n"
    script += "if rank == 0: time.sleep(0.05)\nreport('no such file')\nsys.exit(2)\n"
    done = launched(script, log_dir=str(tmp_path))
    assert done.status == 2
    assert done.err == (
        f"error: no such file\nerror: rank 0 failed (exit status 2); its log: {tmp_path}/rank_0.log\n"
    )


def test_with_all_ranks_shown_no_error_is_told_twice(launched, tmp_path):
    script = REPORTED + "if rank == 1:\n    report('mine')\n    sys.exit(1)\ntime.sleep(60)\n"
    done = launched(script, all_ranks=True, log_dir=str(tmp_path))
    assert done.err == (
        f"[rank 1] error: mine\nerror: rank 1 failed (exit status 1); its log: {tmp_path}/rank_1.log\n"
    )


def test_who_was_killed_comes_before_who_failed_for_that(launched, tmp_path):
    done = launched(
        """
if rank == 1:
    ready()
    wait_for("ready_0")
    os.kill(os.getpid(), signal.SIGKILL)
wait_for("ready_1")
pid = int((here / "ready_1").read_text())
ready()
try:
    while open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] != "Z":
        pass
except OSError:
    pass
raise RuntimeError("Connection closed by peer")
""",
        log_dir=str(tmp_path),
    )
    assert done.status == 1
    assert done.err == (
        f"error: rank 1 was killed (SIGKILL); its log: {tmp_path}/rank_1.log\n"
        "  the system may have run out of memory: `dmesg | tail` tells\n"
    )


def test_a_crash_is_told_and_where_it_was_is_in_the_log(launched, tmp_path):
    script = "if rank == 1:\n    os.kill(os.getpid(), signal.SIGSEGV)\ntime.sleep(60)\n"
    done = launched(script, log_dir=str(tmp_path))
    assert done.err == f"error: rank 1 was killed (SIGSEGV); its log: {tmp_path}/rank_1.log\n"
    assert "Fatal Python error: Segmentation fault" in (tmp_path / "rank_1.log").read_text()


def test_an_end_without_a_word_counts_as_it_is(launched):
    done = launched("if rank == 1:\n    os._exit(int(sys.argv[1]))\ntime.sleep(60)\n", arguments=("9",))
    assert (done.status, done.err) == (1, "error: rank 1 failed (exit status 9)\n")
    done = launched("if rank == 1:\n    os._exit(int(sys.argv[1]))\ntime.sleep(0.5)\n", arguments=("0",))
    assert (done.status, done.err) == (0, "")


def test_all_start_again_as_often_as_asked_for(launched, tmp_path):
    script = """
attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
print("attempt", attempt)
if rank == 0:
    ready()
if attempt == 0 and rank == 1:
    wait_for("ready_0")
    raise ValueError("first")
if attempt == 1 and rank == 0:
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGKILL)
if attempt < 2:
    time.sleep(60)
"""
    done = launched(script, max_restarts=3, log_dir=str(tmp_path))
    assert done.status == 0
    assert done.err == (
        "rank 1 failed (ValueError: first): starting all again, restart 1 of 3\n"
        "rank 0 was killed (SIGKILL): starting all again, restart 2 of 3\n"
    )
    assert done.out.splitlines()[0] == "attempt 0"
    assert done.out.splitlines()[-1] == "attempt 2"
    assert (tmp_path / "rank_1.log").read_text().count("attempt") == 3


def test_wrong_input_is_not_tried_again(launched):
    done = launched("ready()\nwait_for('ready_0')\nsys.exit(2 * rank)\n", max_restarts=3)
    assert (done.status, done.err) == (2, "error: rank 1 failed (exit status 2)\n")


def test_who_does_not_answer_is_named_and_then_ended(launched, tmp_path):
    script = """
if rank == 1:
    ready()
    os.kill(os.getpid(), signal.SIGSTOP)
time.sleep(60)
"""
    done = launched(script, hang_timeout_s=2.0, log_dir=str(tmp_path))
    pid = (tmp_path / "ready_1").read_text()
    assert done.status == 1
    assert f"rank 1 (process {pid}) has not answered for 0 s: it is stopped\n" in done.err
    assert f"  `kill -CONT {pid}` lets it go on; after 2 s it is ended\n" in done.err
    log = f"{tmp_path}/rank_1.log"
    assert done.err.endswith(f"error: rank 1 did not answer for 2 s and was ended; its log: {log}\n")


def test_who_answers_in_time_is_let_be(launched):
    script = """
if rank == 1:
    ready()
    os.kill(os.getpid(), signal.SIGSTOP)
else:
    wait_for("ready_1")
    time.sleep(1.0)
    os.kill(int((here / "ready_1").read_text()), signal.SIGCONT)
"""
    done = launched(script, hang_timeout_s=5.0)
    assert done.status == 0
    assert done.err.count("rank 1 (") == 1


NOW = time.time_ns()
SECOND = 10**9


@pytest.mark.parametrize(
    ("ends", "killed", "first"),
    [
        ([End(0, 0), End(1, 143)], [], None),
        ([End(0, 1, time_ns=NOW + 2), End(1, 1, "a", time_ns=NOW)], [], 1),
        ([End(0, 1, "closed", time_ns=NOW), End(1, -9, time_ns=NOW + SECOND)], [], 1),
        ([End(0, 1, "closed", time_ns=NOW), End(1, -9, time_ns=NOW + SECOND)], [1], 0),
        ([End(0, 1, "its own", time_ns=NOW), End(1, 1, "other", time_ns=NOW + 1)], [0], 0),
        ([End(0, 1, "closed", time_ns=NOW), End(1, -11, time_ns=NOW + SECOND // 100)], [], 1),
        ([End(0, 1, "bad", time_ns=NOW), End(1, -6, time_ns=NOW + SECOND // 2)], [], 0),
        ([End(0, 1, "bad", time_ns=NOW), End(1, -9, time_ns=NOW + SECOND, hung=True)], [1], 1),
        ([End(0, 1, "same", time_ns=NOW + 5), End(1, 1, "same", time_ns=NOW)], [], 0),
        ([End(0, 255, time_ns=NOW)], [], 0),
    ],
)
def test_the_first_failure_is_the_one_that_the_others_followed_from(ends, killed, first):
    found = first_failure(ends, killed)
    assert (found.rank if found else None) == first


def test_an_error_file_that_nobody_understands_is_no_error(launched, tmp_path):
    script = "pathlib.Path(os.environ['TORCHELASTIC_ERROR_FILE']).write_text(sys.argv[1])\nsys.exit(rank)\n"
    for content in ("", "{", "[1]", json.dumps({"message": {"message": None}}), json.dumps({"message": 3})):
        done = launched(script, arguments=(content,))
        assert (done.status, done.err) == (1, "error: rank 1 failed (exit status 1)\n")
    done = launched(script, arguments=(json.dumps({"message": "plain"}),))
    assert done.err == "error: rank 1 failed: plain\n  exit status 1\n"


def test_those_that_start_again_find_each_other_whoever_failed(launched):
    script = """
import torch.distributed as dist
dist.init_process_group("gloo")
attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
dist.barrier()
if attempt < 3 and rank == attempt % 2:
    os.kill(os.getpid(), signal.SIGKILL)
dist.barrier()
print(attempt)
"""
    done = launched(script, max_restarts=3)
    assert (done.status, done.out) == (0, "3\n")
    assert done.err.count("starting all again") == 3


def test_one_process_that_may_be_started_again_is(launched):
    script = "if int(os.environ['TORCHELASTIC_RESTART_COUNT']) == 0: sys.exit(1)\nprint('again')\n"
    done = launched(script, processes=1, max_restarts=1)
    assert (done.status, done.out) == (0, "again\n")
