"""A log keeps what a terminal shows in the end."""

import pytest

from tune_launch.output import Lines


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (["a\n", "b\n"], ["a", "b"]),
        (["a", "b", "\nc", "\n"], ["ab", "c"]),
        (["\n", "\n"], ["", ""]),
        (["no end"], ["no end"]),
        (["10 %\r", "20 %\r", "done\n"], ["done"]),
        (["\r10 %", "\r20 %", "\n"], ["20 %"]),
        (["10 %\r", "\n"], ["10 %"]),
        (["windows\r\n"], ["windows"]),
        (["\x1b[32mgreen\x1b[0m\n"], ["green"]),
        (["10 %", "\r\x1b[K", "step 1\n", "20 %", "\r\x1b[K"], ["step 1"]),
        (["é\N{GREEK SMALL LETTER ALPHA}\n"], ["éα"]),
    ],
)
def test_a_line_is_kept_as_it_was_when_it_ended(written, kept):
    lines: list[str] = []
    taker = Lines(lines.append)
    for text in written:
        taker.write(text)
    taker.finish()
    assert lines == [f"{line}\n" for line in kept]


def test_a_bar_drawn_for_days_takes_no_memory():
    taker = Lines()
    for step in range(10_000):
        taker.write(f"\rstep {step}")
    assert taker._unfinished == "step 9999"
