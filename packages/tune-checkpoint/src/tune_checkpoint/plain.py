"""Text with parts from files, made fit for a terminal and for JSON."""

from typing import Any, cast


def printable_line(line: str) -> str:
    """The line with what a terminal would obey, such as in the name of a tensor, spelled out."""
    if line.isprintable():
        return line
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in line)


def printable_text(text: str) -> str:
    """The same of several lines."""
    return "\n".join(map(printable_line, text.split("\n")))


def json_text(value: object) -> str:
    r"""A result as JSON. A byte of a file's name that is no UTF-8 is spelled out: `m\udcff`."""
    import msgspec

    try:
        content = msgspec.json.encode(value)
    except UnicodeEncodeError:
        content = msgspec.json.encode(_encodable(msgspec.to_builtins(value)))
    return msgspec.json.format(content, indent=2).decode()


def _encodable(value: Any) -> Any:
    """The same data with what UTF-8 cannot have spelled out."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {_encodable(key): _encodable(inner) for key, inner in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_encodable(inner) for inner in cast("list[Any]", value)]
    return value
