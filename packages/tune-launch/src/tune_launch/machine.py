"""Which GPUs and cores this machine has, as the processes that it starts will see them; without PyTorch.

Source:
    CUDA C++ Programming Guide, "CUDA Environment Variables"; ROCm, "GPU isolation techniques".
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

Vendor = Literal["nvidia", "amd"]

NVIDIA = "proc/driver/nvidia/gpus"
"""A folder for each GPU; in a container only for those that it was given."""
AMD = "sys/class/kfd/kfd/topology/nodes"
"""A folder for each CPU socket and each GPU."""
WINDOWS = "dev/dxg"
"""Windows shows a GPU to its Linux here, and lists it nowhere."""


class Machine(msgspec.Struct, frozen=True):
    """What there is to compute on."""

    gpus: tuple[str, ...]
    """Their ids, as CUDA_VISIBLE_DEVICES or HIP_VISIBLE_DEVICES wants them."""
    vendor: Vendor | None
    """Who made them; None without any."""
    source: str
    """Where that comes from, for messages."""
    cores: int
    """How many cores this process may use."""


def detect(environ: Mapping[str, str] = os.environ, root: str | os.PathLike[str] = "/") -> Machine:
    """Count the GPUs that a process started with this environment would see.

    Args:
        environ: CUDA_VISIBLE_DEVICES, HIP_VISIBLE_DEVICES and ROCR_VISIBLE_DEVICES count.
        root: Folder in which `proc`, `sys` and `dev` are.
    """
    found = _from_variables(environ, Path(root)) or _from_drivers(Path(root))
    vendor, source, gpus = found
    return Machine(gpus=gpus, vendor=vendor if gpus else None, source=source, cores=count_cores())


_Found = tuple[Vendor, str, tuple[str, ...]]


def _from_variables(environ: Mapping[str, str], root: Path) -> _Found | None:
    nvidia, amd = _nvidia_count(root), _amd_count(root)
    if not nvidia:
        hip, rocr = environ.get("HIP_VISIBLE_DEVICES"), environ.get("ROCR_VISIBLE_DEVICES")
        if hip is not None:
            return "amd", "HIP_VISIBLE_DEVICES", _visible(hip, None)
        if rocr is not None:  # it renumbers what is left of the GPUs, and HIP_VISIBLE_DEVICES counts in those
            return "amd", "ROCR_VISIBLE_DEVICES", _numbers(len(_visible(rocr, None)))
    if (cuda := environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        vendor: Vendor = "amd" if amd and not nvidia else "nvidia"  # ROCm heeds it as well
        return vendor, "CUDA_VISIBLE_DEVICES", _visible(cuda, (amd if vendor == "amd" else nvidia) or None)
    return None


def _from_drivers(root: Path) -> _Found:
    if count := _nvidia_count(root):
        return "nvidia", f"/{NVIDIA}", _numbers(count)
    if count := _amd_count(root):
        return "amd", f"/{AMD}", _numbers(count)
    if (root / WINDOWS).exists() and (root / "usr/lib/wsl/lib/libcuda.so.1").exists():
        return "nvidia", f"/{WINDOWS}", _numbers(1)  # CUDA_VISIBLE_DEVICES tells of more
    return "nvidia", "no NVIDIA or AMD driver is loaded", ()


def _numbers(count: int) -> tuple[str, ...]:
    return tuple(str(number) for number in range(count))


def _nvidia_count(root: Path) -> int:
    return len(_folder(root / NVIDIA))


def _amd_count(root: Path) -> int:
    return sum(_is_gpu(node / "properties") for node in _folder(root / AMD))


def _folder(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except OSError:
        return []


def _is_gpu(properties: Path) -> bool:
    try:
        words = properties.read_text(encoding="ascii").split()
    except OSError:
        return False
    return dict(zip(words[::2], words[1::2], strict=False)).get("simd_count", "0") != "0"


def _visible(value: str, count: int | None) -> tuple[str, ...]:
    """Return what CUDA takes from a list of devices: nothing from the first on that is no device.

    Args:
        value: Numbers or UUIDs between commas.
        count: How many devices there are, if known.
    """
    ids: list[str] = []
    for entry in (part.strip() for part in value.split(",")):
        is_number = entry.isascii() and entry.isdigit()
        if not is_number and not entry.startswith(("GPU-", "MIG-")):
            break
        if is_number and count is not None and int(entry) >= count:
            break
        ids.append(str(int(entry)) if is_number else entry)
    return tuple(ids) if len(set(ids)) == len(ids) else ()  # one named twice: CUDA shows none


def count_cores() -> int:
    """Return how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1
