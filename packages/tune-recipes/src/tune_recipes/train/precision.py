"""Which number format to train in."""

from collections.abc import Mapping
from typing import Any, Literal

import torch


def resolve_dtype(
    name: Literal["auto", "fp32", "bf16"],
    device: torch.device,
    *,
    cpu_capabilities: Mapping[str, Any] | None = None,
) -> torch.dtype:
    """Return the format that a config's `dtype` means on a device.

    `auto` is bf16 where the hardware multiplies it natively: accelerators that say so, and CPUs with AMX. On
    other CPUs bf16 is emulated, at a small part of fp32's speed, or gains nothing over it.

    Args:
        name: As in the config.
        device: Where to compute.
        cpu_capabilities: What `torch.cpu.get_capabilities` says of the CPU; this one's, if not given.
    """
    if device.type == "meta":  # a dry run: what a run on this machine would take
        device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if name == "auto":
        return torch.bfloat16 if _has_fast_bf16(device, cpu_capabilities) else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[name]


def _has_fast_bf16(device: torch.device, cpu_capabilities: Mapping[str, Any] | None) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        if cpu_capabilities is None:
            cpu_capabilities = torch.cpu.get_capabilities()
        return bool(cpu_capabilities.get("amx_tile"))
    return True
