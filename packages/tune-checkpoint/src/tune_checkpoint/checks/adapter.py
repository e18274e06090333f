"""Whether the two matrices of each low-rank pair fit each other, and the rank that is stated."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tune_checkpoint.checks.problems import Problem, problem
from tune_checkpoint.plan import TensorSlice

PAIR = re.compile(r"(.*\.lora(?:_embedding)?_)([AB])(\..*)?")


def check_pairs(tensors: Iterable[TensorSlice], config: Mapping[str, Any]) -> Iterator[Problem]:
    """Hold the ranks of an adapter's matrices against each other.

    Args:
        tensors: all that the adapter has: A is (rank, in), B is (out, rank).
        config: its `adapter_config.json`.
    """
    pairs: dict[tuple[str, str], dict[str, TensorSlice]] = {}
    for tensor in tensors:
        if match := PAIR.fullmatch(tensor.name):
            pairs.setdefault((match[1], match[3] or ""), {})[match[2]] = tensor
    for pair in pairs.values():
        yield from _check_pair(pair, config)


def _check_pair(pair: Mapping[str, TensorSlice], config: Mapping[str, Any]) -> Iterator[Problem]:
    if len(pair) < 2:
        ((which, tensor),) = pair.items()
        other = tensor.name[::-1].replace(f"{which}_", f"{'AB'['BA'.index(which)]}_", 1)[::-1]
        yield problem("shapes", Path(tensor.path), f"has no counterpart {other!r}", tensor.name)
        return
    a, b = pair["A"], pair["B"]
    if len(a.shape) < 2 or len(b.shape) < 2 or a.shape[0] != b.shape[1]:
        what = f"has shape {list(b.shape)}, which does not fit {list(a.shape)} of {a.name!r}"
        yield problem("shapes", Path(b.path), what, b.name)
    elif type(rank := config.get("r")) is int and rank != a.shape[0] and not config.get("rank_pattern"):
        yield problem(
            "shapes", Path(a.path), f"has rank {a.shape[0]}; adapter_config.json says {rank}", a.name
        )
