"""What a person at a terminal sees: a live bar that leaves clean lines behind, and Ctrl-C."""

import os
import pty
import re
import signal
import subprocess
from pathlib import Path

from support import TINY, TUNE

WORDS = ["run", "full_finetune", "--config", "demo_full_finetune", *TINY]


def at_a_terminal(
    words: list[str], folder: Path, *, interrupt_at: bytes = b"", **env: str
) -> tuple[int, str]:
    """Run `tune` at a pseudo-terminal, and interrupt it once it has printed something.

    Returns:
        The exit status, and everything that the terminal got.
    """
    terminal, side = pty.openpty()
    inherited = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    environment = {**inherited, "TERM": "xterm", **env}
    process = subprocess.Popen(
        [*TUNE, *words],
        cwd=folder,
        stdin=side,
        stdout=side,
        stderr=side,
        env=environment,
        start_new_session=True,
    )
    os.close(side)
    got = b""
    while piece := read(terminal):
        got += piece
        if interrupt_at and interrupt_at in got:
            process.send_signal(signal.SIGINT)
            interrupt_at = b""
    os.close(terminal)
    return process.wait(timeout=60), got.decode()


def read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux's way to say that the other side is closed
        return b""


def last_screen(got: str) -> list[str]:
    """Return the lines as the terminal shows them in the end: each without what was drawn over."""
    got = re.sub(r"\x1b\[\??[0-9;]*[A-JL-Za-z]", "", got)  # colours, cursor moves; not K, which erases a line
    lines = [re.split(r"\r|\x1b\[[0-9]?K", line)[-1] for line in got.replace("\r\n", "\n").split("\n")]
    return [line.rstrip() for line in lines if line.strip()]


def test_a_terminal_gets_a_bar_and_keeps_the_lines(tmp_path: Path):
    code, got = at_a_terminal([*WORDS, "max_steps=12"], tmp_path)
    assert code == 0, got
    assert "━" in got
    assert "12/12" in got
    lines = last_screen(got)
    assert lines[-4].startswith("Finished 12 steps. Final loss: ")
    assert lines[-1].startswith("  tune run generate --config demo_generate model=runs/")
    log = next(tmp_path.glob("runs/*/log.txt")).read_text()
    assert "\x1b" not in log
    assert "━" not in log
    assert "Finished 12 steps" in log


def test_ctrl_c_at_a_terminal_saves_and_says_how_to_go_on(tmp_path: Path):
    code, got = at_a_terminal([*WORDS, "epochs=10000"], tmp_path, interrupt_at=b"step ")
    assert code == 130, got
    lines = last_screen(got)
    assert "Stopping after this step" in got
    assert lines[-2].startswith("Stopped after step")
    assert lines[-1].startswith("  tune run --resume runs/")
    assert "Traceback" not in got


def test_no_bar_and_no_colour_where_they_are_not_wanted(tmp_path: Path):
    code, got = at_a_terminal([*WORDS, "max_steps=3"], tmp_path, NO_COLOR="1")
    assert code == 0, got
    assert "\x1b" not in got
    assert "━" not in got
