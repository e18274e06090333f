"""Text with parts from files, made fit for a terminal."""


def printable_line(line: str) -> str:
    """The line with what a terminal would obey, such as in the name of a tensor, spelled out."""
    if line.isprintable():
        return line
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in line)


def printable_text(text: str) -> str:
    """The same of several lines."""
    return "\n".join(map(printable_line, text.split("\n")))
