"""Which number format to train in."""

from typing import Literal

import torch


def resolve_dtype(name: Literal["auto", "fp32", "bf16"], device: torch.device) -> torch.dtype:
    """Return the format that a config's `dtype` means on a device.

    `auto` is bf16 where the hardware multiplies it natively: accelerators that say so, and CPUs with AMX. On
    other CPUs bf16 is emulated, at a small part of fp32's speed, or gains nothing over it.
    """
    if name == "auto":
        return torch.bfloat16 if _has_fast_bf16(device) else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[name]


def _has_fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return bool(torch.cpu.get_capabilities().get("amx_tile"))
    return True
