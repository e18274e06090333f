"""Processes that are started together know each other, and print where one looks for it."""

import json
import os
import pty
import re
import signal
import subprocess
import sys

import pytest

from tune_launch import LaunchError, LaunchSpec, launch

WHO = """
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "OMP_NUM_THREADS", "LOGLEVEL")
print(json.dumps({
    "variables": [os.environ[name] for name in names],
    "port": int(os.environ["MASTER_PORT"]),
    "executable": sys.executable,
    "argv": sys.argv[1:],
    "path": sys.path[:2],
    "main": sys.modules["__main__"].__file__ == __file__ == sys.argv[0] and __name__ == "__main__",
    "stdin": sys.stdin.read(),
    "group": os.getpgid(0) == os.getpid(),
}))
os.write(1, b"from C++\\n")
print("to stderr", file=sys.stderr)
"""


@pytest.fixture
def typed():
    """Have something to read on stdin."""
    before = os.dup(0)
    reader, writer = os.pipe()
    os.write(writer, b"typed")
    os.close(writer)
    os.dup2(reader, 0)
    yield
    os.dup2(before, 0)
    os.close(reader)
    os.close(before)


@pytest.mark.usefixtures("typed")
def test_each_process_knows_its_place_and_keeps_its_log(launched, tmp_path, monkeypatch):
    (tmp_path / "cwd").mkdir()
    (tmp_path / "cwd" / "msgspec.py").write_text("raise ImportError('the folder where one stands')")
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("LOGLEVEL", "odd")
    environ = dict(os.environ)
    handlers = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    arguments = ("a=1", "", "$$", "${local_rank}", "--", "é c")
    logs = tmp_path / "new" / "logs"

    done = launched(WHO, arguments=arguments, import_from="/more", log_dir=str(logs))

    assert done.status == 0
    assert done.err == "to stderr\n"
    logged = [(logs / f"rank_{rank}.log").read_text().splitlines() for rank in (0, 1)]
    assert done.out.splitlines() == [logged[0][0], "from C++"]  # rank 0 alone, and not twice
    assert logged[0][1:] == ["to stderr"]
    assert logged[1][1:] == ["from C++", "to stderr"]
    ranks = [json.loads(lines[0]) for lines in logged]
    threads = str(max(1, len(os.sched_getaffinity(0)) // 2))
    for number, rank in enumerate(ranks):
        assert rank["variables"] == [str(number), str(number), "2", "2", "127.0.0.1", threads, "odd"]
        assert rank["executable"] == sys.executable
        assert rank["argv"] == list(arguments)
        assert rank["path"] == [str(tmp_path), "/more"]
        assert rank["main"]
        assert rank["stdin"] == ""
        assert rank["group"]
    assert ranks[0]["port"] == ranks[1]["port"]
    assert dict(os.environ) == environ
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_all_ranks_are_shown_line_by_line_and_never_torn(launched, tmp_path):
    done = launched(
        """
for line in range(400):
    for word in ("line", str(line), "x" * 300):
        print(word, end=" ")
    print("end", file=sys.stdout if line % 2 else sys.stderr)
    if line % 2 == 0:
        print("end")
print("isatty", sys.stdout.isatty(), end="")
""",
        all_ranks=True,
        processes=3,
        log_dir=str(tmp_path),
    )
    assert done.status == 0
    for rank in range(3):
        mine = [line for line in done.out.splitlines() if line.startswith(f"[rank {rank}] ")]
        text = [line.removeprefix(f"[rank {rank}] ") for line in mine]
        assert text == [f"line {line} {'x' * 300} end" for line in range(400)] + ["isatty False"]
        assert (tmp_path / f"rank_{rank}.log").read_text().splitlines()[-1] == "isatty False"
    assert re.fullmatch(r"(\[rank [012]\] [^\[\n]*\n)+", done.out)
    assert done.err.splitlines().count("[rank 1] end") == 200


def test_rank_0_has_the_terminal(as_script, tmp_path):
    ours, theirs = pty.openpty()
    script = as_script("print(sys.stdout.isatty(), sys.stderr.isatty(), end=' ')")
    stdout, stderr = os.dup(1), os.dup(2)
    try:
        os.dup2(theirs, 1)
        os.dup2(theirs, 2)
        assert launch(LaunchSpec(script=script, processes=2, log_dir=str(tmp_path))) == 0
    finally:
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
    assert os.read(ours, 100) == b"True True "
    assert [(tmp_path / f"rank_{rank}.log").read_text() for rank in (0, 1)] == [
        "True True \n",
        "False False ",
    ]
    for file in (ours, theirs, stdout, stderr):
        os.close(file)


def test_a_terminal_that_is_closed_ends_nobody(as_script, tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # with it, nothing is left to flush
    script = as_script("for line in range(1000):\n    print('line', line, flush=True)\n")
    reader, writer = os.pipe()
    os.close(reader)
    stdout = os.dup(1)
    try:
        os.dup2(writer, 1)
        assert launch(LaunchSpec(script=script, processes=2, log_dir=str(tmp_path))) == 0
    finally:
        os.dup2(stdout, 1)
    assert (tmp_path / "rank_0.log").read_text().endswith("line 999\n")
    for file in (writer, stdout):
        os.close(file)


def test_nobody_looks_up_names(launched, monkeypatch):
    def look_up(*_):
        raise AssertionError("where no name server answers this takes seconds each time")

    for name in ("getfqdn", "gethostbyname", "gethostbyaddr", "getaddrinfo"):
        monkeypatch.setattr(f"socket.{name}", look_up)
    assert launched("").status == 0


def test_a_script_that_is_not_there_is_told_before_anything_starts(tmp_path):
    for processes in (1, 2):
        with pytest.raises(LaunchError, match=r"nope\.py: no such file"):
            launch(LaunchSpec(script=str(tmp_path / "nope.py"), processes=processes))


def test_a_folder_for_logs_that_cannot_be_is_told(as_script, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LaunchError, match=r"file/logs: cannot keep logs there \(Not a directory\)"):
        launch(LaunchSpec(script=as_script(""), processes=2, log_dir=str(tmp_path / "file/logs")))


def test_one_process_is_this_one_and_needs_no_torch(tmp_path):
    (tmp_path / "a.py").write_text(
        "import os, sys\nprint(os.getpid(), os.environ['CUDA_VISIBLE_DEVICES'], sys.argv)\nsys.exit(7)\n"
    )
    code = (
        "import os, sys, tune_launch\n"
        "assert not {name for name in sys.modules if name.startswith(('tune_launch.', 'msgspec'))}\n"
        "spec = tune_launch.LaunchSpec(script='a.py', arguments=('b',), vendor='nvidia', devices=('5',))\n"
        "print(os.getpid(), tune_launch.launch(spec))\n"
        "assert 'CUDA_VISIBLE_DEVICES' not in os.environ\n"
        "assert not {'torch', 'tune_launch.elastic'} & set(sys.modules)\n"
    )
    environ = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True
    )
    first, second = done.stdout.splitlines()
    pid = second.split()[0]
    assert (first, second) == (f"{pid} 5 ['a.py', 'b']", f"{pid} 7")


def test_processes_compute_together(launched):
    done = launched(
        """
import torch
import torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor([rank + 1.0])
dist.all_reduce(total)
print(total.item(), torch.get_num_threads())
dist.destroy_process_group()
"""
    )
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("3.0 ")


def test_gpus_that_pytorch_does_not_find_are_told_once(launched):
    done = launched("print('not reached')", devices=("98", "99"), vendor="nvidia")
    assert done.status == 2
    assert done.out == ""
    assert done.err.startswith("error: 2 GPUs were asked for (CUDA_VISIBLE_DEVICES=98,99), PyTorch ")
    assert " finds none: is this a CPU build of PyTorch, or no driver?\n" in done.err
    assert done.err.count("error") == 1
    assert "`--nproc 2` trains on the CPU" in done.err


def test_launches_at_once_do_not_collide(start):
    launchers = [start("print(rank, os.environ['MASTER_PORT'])", all_ranks=True) for _ in range(4)]
    done = [launcher.end() for launcher in launchers]
    assert [(end.status, end.err) for end in done] == [(0, "")] * 4
    ports = [{line.split()[-1] for line in end.out.splitlines()} for end in done]
    assert all(len(port) == 1 for port in ports)
    assert len(set.union(*ports)) == 4


def test_nobody_but_this_machine_can_reach_the_processes(launched):
    done = launched(
        "port = f\":{int(os.environ['MASTER_PORT']):04X}\"\n"
        "for table in ('/proc/net/tcp', '/proc/net/tcp6'):\n"
        "    for line in pathlib.Path(table).read_text().splitlines()[1:] if os.path.exists(table) else []:\n"
        "        _, local, _, state, *_ = line.split()\n"
        "        if local.endswith(port) and state == '0A':\n"
        "            print('listens on', local.partition(':')[0])\n"
    )
    assert done.out == "listens on 0100007F\n"
