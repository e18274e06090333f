"""The key-value pairs of a GGUF file, taken out with the type that the reader expects."""

import struct
from math import inf
from pathlib import Path
from typing import Any, TypeVar, cast

from tune_checkpoint.errors import CorruptFileError

T = TypeVar("T")


class Metadata:
    """Typed access: a key that is missing gives `default`, one of another type is an error that names it."""

    def __init__(self, path: Path, values: dict[str, Any]) -> None:
        self.path = path
        self._values = values

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def model_key(self, name: str) -> str:
        """The key of a size or setting of the model: such keys begin with its architecture, `llama`."""
        return f"{self.text('general.architecture')}.{name}"

    def required_int(self, key: str) -> int:
        """A positive number that the model cannot be read without."""
        value = self.positive_int(key)
        if value is None:
            raise CorruptFileError(f"{self.path}: {key} is missing from the metadata")
        return value

    def positive_int(self, key: str) -> int | None:
        """A whole number above zero."""
        value = self.integer(key)
        if value is not None and value <= 0:
            raise CorruptFileError(f"{self.path}: {key} is {value}; it must be positive")
        return value

    def integer(self, key: str) -> int | None:
        """A whole number."""
        return self._get(key, int, "a whole number")

    def positive_number(self, key: str, default: float) -> float:
        """A float above zero, the shortest for the file's 32 bits: 1e-05, not 9.999999747378752e-06."""
        value = self._get(key, float, "a number")
        if value is None:
            return default
        if not 0 < value < inf:
            raise CorruptFileError(f"{self.path}: {key} is {value}; it must be positive and finite")
        return shortest_float(value)

    def text(self, key: str) -> str | None:
        """A string."""
        return self._get(key, str, "a string")

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._get(key, bool, "a boolean")
        return default if value is None else value

    def texts(self, key: str) -> list[str] | None:
        """An array of strings."""
        return self._array(key, str, "an array of strings")

    def integers(self, key: str) -> list[int] | None:
        """An array of whole numbers."""
        return self._array(key, int, "an array of whole numbers")

    def numbers(self, key: str) -> list[float] | None:
        """An array of floats."""
        return self._array(key, float, "an array of numbers")

    def _get(self, key: str, kind: type[T], what: str) -> T | None:
        value = self._values.get(key)
        # type(), not isinstance(): a bool is an int to Python, and not to the file.
        if value is not None and type(value) is not kind:
            raise CorruptFileError(f"{self.path}: {key} is to be {what}, not {type(value).__name__}")
        return value

    def _array(self, key: str, kind: type[T], what: str) -> list[T] | None:
        values = cast("list[T] | None", self._get(key, list, what))
        # The reader makes arrays of one type.
        if values and type(values[0]) is not kind:
            raise CorruptFileError(f"{self.path}: {key} is to be {what}, not of {type(values[0]).__name__}")
        return values


def shortest_float(value: float) -> float:
    """The decimal with the fewest digits that rounds to the same 32-bit float."""
    for digits in range(6, 10):
        candidate = float(f"{value:.{digits}g}")
        if struct.pack("<f", candidate) == struct.pack("<f", value):
            return candidate
    return value
