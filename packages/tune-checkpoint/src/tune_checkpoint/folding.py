"""Names of identical layers folded into one: `model.layers.{0..31}.mlp.up_proj.weight`."""

from collections.abc import Hashable, Iterable
from math import prod
from typing import TypeVar

from msgspec import Struct

T = TypeVar("T", bound=Hashable)
Template = tuple[str | None, ...]
"""The parts of a name between its points, with None for a number."""
MAX_RANGES = 4
"""Ranges of numbers that a name spells out before it cuts the rest short."""


class Folded(Struct, frozen=True):
    """Some things with names that differ in their numbers only."""

    name: str
    """`layers.{0..31}.norm.weight`; the name itself if there is but one."""
    count: int
    members: tuple[int, ...]
    """Which of the things that were given."""


def fold(things: Iterable[tuple[str, T]]) -> list[Folded]:
    """Put together what is alike.

    Args:
        things: names, each with what must be equal beside it, such as type and shape.

    Returns:
        The groups, in the order of their first members.
    """
    groups: dict[tuple[Template, T], list[tuple[int, tuple[int, ...]]]] = {}
    names: list[str] = []
    for position, (name, alike) in enumerate(things):
        names.append(name)
        parts = name.split(".")
        numbers = tuple(int(part) for part in parts if _is_number(part))
        template = tuple(None if _is_number(part) else part for part in parts)
        groups.setdefault((template, alike), []).append((position, numbers))
    folded: list[Folded] = []
    for (template, _), members in groups.items():
        positions = tuple(position for position, _ in members)
        name = names[positions[0]]
        if len(members) > 1:
            name = _with_ranges(template, [numbers for _, numbers in members])
        folded.append(Folded(name, len(members), positions))
    return folded


def _is_number(part: str) -> bool:
    return part.isascii() and part.isdigit() and len(part) <= 9


def _with_ranges(template: Template, numbers: list[tuple[int, ...]]) -> str:
    """The template with the numbers that stand in each place."""
    columns = [sorted(set(column)) for column in zip(*numbers, strict=True)]
    spelled = iter(_ranges(column) for column in columns)
    name = ".".join(next(spelled) if part is None else part for part in template)
    is_whole = prod(len(column) for column in columns) == len(numbers)
    return name if is_whole else f"{name} (not all)"


def _ranges(numbers: list[int]) -> str:
    """`{0..3,7}`; a single number as it is."""
    if len(numbers) == 1:
        return str(numbers[0])
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    spelled = [_range(*limits) for limits in ranges]
    if len(spelled) > MAX_RANGES:
        spelled = [*spelled[: MAX_RANGES - 1], "..", spelled[-1]]
    return "{" + ",".join(spelled) + "}"


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}..{last}"
