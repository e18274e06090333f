"""Rules between options, and limits that a type alone does not express."""

import msgspec
import pytest

from tune_recipes.schema import Optim


@pytest.mark.parametrize("name", ["lr", "eps", "weight_decay"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_rate_that_is_no_finite_number_is_refused(name: str, value: float):
    with pytest.raises(ValueError, match=f"optim.{name}: expected a finite number"):
        msgspec.structs.replace(Optim(), **{name: value})


def test_clipping_can_be_turned_off():
    assert Optim(max_grad_norm=float("inf")).max_grad_norm == float("inf")
