"""What may be drawn on the terminal. Imports no torch."""

import os
import sys


def can_draw_bar() -> bool:
    """Say whether standard error is a terminal that can show a bar, and whose user wants one.

    Source: https://no-color.org: a NO_COLOR that is set and not empty asks for plain text.
    """
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")
