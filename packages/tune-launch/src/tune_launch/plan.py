"""What a launch sets in the environment of its processes, and its description for a dry run."""

import os
import socket
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager

from tune_launch.spec import LaunchSpec, host_and_port, is_loopback

THREADS = "OMP_NUM_THREADS"
INTERFACE = "GLOO_SOCKET_IFNAME"
LEVEL = "TORCH_CPP_LOG_LEVEL"


def environment(spec: LaunchSpec, environ: Mapping[str, str], cores: int) -> dict[str, str]:
    """Return the variables to set for the processes; what the user has set stays, but for the devices.

    Args:
        spec: What is launched.
        environ: The environment that the processes inherit.
        cores: How many cores they share.
    """
    variables = _device_variables(spec, environ)
    if spec.processes > 1 and not environ.get(THREADS):
        # PyTorch takes all cores in each process, and they would spend their time waiting for each other.
        variables[THREADS] = str(max(1, cores // spec.processes))
    if _stays_here(spec):
        if LEVEL not in environ:
            variables[LEVEL] = (
                "ERROR"  # else PyTorch warns that it cannot look up 127.0.0.1 where no name server is
            )
        if (interface := _loopback_interface()) and not environ.get(INTERFACE):
            variables[INTERFACE] = interface  # else gloo looks up the hostname, which may not resolve
    return variables


@contextmanager
def in_environment(variables: Mapping[str, str]) -> Generator[None]:
    """Set variables of this process, and put its whole environment back at the end."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:  # PyTorch's elastic agent sets some as well
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def visible_variable(spec: LaunchSpec) -> str:
    """Name the variable that says which GPUs a process sees."""
    return "HIP_VISIBLE_DEVICES" if spec.vendor == "amd" else "CUDA_VISIBLE_DEVICES"


def visible_devices(spec: LaunchSpec) -> str:
    """Return the value of that variable."""
    none = "-1" if spec.vendor == "amd" else ""  # ROCm takes an empty one as if it were not set
    return ",".join(spec.devices) or none


def _device_variables(spec: LaunchSpec, environ: Mapping[str, str]) -> dict[str, str]:
    if not spec.devices and spec.vendor is None:
        return {}
    variables = {visible_variable(spec): visible_devices(spec)}
    if spec.vendor == "amd" and "CUDA_VISIBLE_DEVICES" in environ:  # ROCm heeds both; they must not disagree
        variables["CUDA_VISIBLE_DEVICES"] = visible_devices(spec)
    return variables


def _stays_here(spec: LaunchSpec) -> bool:
    if spec.nodes == 1:
        return spec.processes > 1
    return spec.rdzv_endpoint is not None and is_loopback(host_and_port(spec.rdzv_endpoint)[0])


def _loopback_interface() -> str | None:
    names = {name for _, name in socket.if_nameindex()}
    return next((name for name in ("lo", "lo0") if name in names), None)


def describe(spec: LaunchSpec, environ: Mapping[str, str], cores: int) -> list[tuple[str, str]]:
    """Describe a launch in rows of label and text.

    Args:
        spec: What would be launched.
        environ: The environment that the processes would inherit.
        cores: How many cores they would share.
    """
    return [
        ("Processes", _processes(spec)),
        ("Devices", _devices(spec)),
        ("Backend", _backend(spec)),
        ("Threads", _threads(spec, environ, cores)),
        ("Rendezvous", _rendezvous(spec)),
        ("Restarts", f"up to {spec.max_restarts}" if spec.max_restarts else "none"),
        ("Python", sys.executable),
    ]


def _processes(spec: LaunchSpec) -> str:
    if spec.is_in_place:
        return "1, in this process"
    if spec.nodes == 1:
        return f"{spec.processes} on this machine"
    return f"{spec.processes} on each of {spec.nodes} machines, {spec.processes * spec.nodes} in all"


def _devices(spec: LaunchSpec) -> str:
    if spec.devices:
        ids = ",".join(spec.devices)
        return f"GPU{'s' if len(spec.devices) > 1 else ''} {ids} ({visible_variable(spec)}={ids})"
    if spec.vendor is None:
        return "CPU"
    return f"CPU (the GPUs are hidden: {visible_variable(spec)}={visible_devices(spec)})"


def _backend(spec: LaunchSpec) -> str:
    return "nccl" if spec.devices else "gloo"


def _threads(spec: LaunchSpec, environ: Mapping[str, str], cores: int) -> str:
    shared = f"{cores} core{'s' if cores > 1 else ''}"
    if set_by_user := environ.get(THREADS):
        return f"{set_by_user} in each process ({THREADS} in your environment; {shared} here)"
    if threads := environment(spec, environ, cores).get(THREADS):
        return f"{threads} in each process ({THREADS}={threads}; {shared} here)"
    return f"as PyTorch chooses ({shared} here)"


def _rendezvous(spec: LaunchSpec) -> str:
    if spec.nodes == 1:
        return "none" if spec.is_in_place else "127.0.0.1, on a free port"
    place = f"{spec.rdzv_endpoint}, id {spec.rdzv_id or 'tune'}"
    if spec.node_rank is None:
        return f"{place}; machines are numbered as they arrive"
    return f"{place}; this is machine {spec.node_rank} of 0 to {spec.nodes - 1}"
