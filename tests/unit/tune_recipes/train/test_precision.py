import pytest
import torch

from tune_recipes.train.precision import resolve_dtype

CPU = torch.device("cpu")
WITH_AMX = {"amx_tile": True, "amx_bf16": True, "avx512_bf16": True}


@pytest.mark.parametrize("capabilities", [{}, WITH_AMX])
@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_named_format_is_taken_whatever_the_hardware(name, dtype, capabilities):
    assert resolve_dtype(name, CPU, cpu_capabilities=capabilities) == dtype


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        (WITH_AMX, torch.bfloat16),
        ({**WITH_AMX, "amx_tile": False}, torch.float32),
        ({"avx2": True, "avx512_bf16": True}, torch.float32),
        ({"architecture": "aarch64", "bf16": True}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_auto_is_bf16_on_a_cpu_with_amx_alone(capabilities, dtype):
    assert resolve_dtype("auto", CPU, cpu_capabilities=capabilities) == dtype


def test_auto_asks_this_cpu_if_not_told():
    capabilities = torch.cpu.get_capabilities()
    assert resolve_dtype("auto", CPU) == resolve_dtype("auto", CPU, cpu_capabilities=capabilities)
