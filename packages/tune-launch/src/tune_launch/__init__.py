"""Starts a training script, in this process or in many, whatever it is."""

TYPE_CHECKING = False  # typing alone would cost more than all else here
if TYPE_CHECKING:
    from tune_launch.choose import choose_devices
    from tune_launch.errors import LaunchError
    from tune_launch.in_place import run_in_place
    from tune_launch.launcher import launch
    from tune_launch.machine import Machine, detect
    from tune_launch.others import other_launcher
    from tune_launch.plan import describe, environment, in_environment
    from tune_launch.spec import LaunchSpec

__all__ = [
    "LaunchError",
    "LaunchSpec",
    "Machine",
    "choose_devices",
    "describe",
    "detect",
    "environment",
    "in_environment",
    "launch",
    "other_launcher",
    "run_in_place",
]

# No module has the name of what it gives: the import system would put the module in its place.
_HOMES = {
    "LaunchError": "errors",
    "LaunchSpec": "spec",
    "Machine": "machine",
    "choose_devices": "choose",
    "describe": "plan",
    "detect": "machine",
    "environment": "plan",
    "in_environment": "plan",
    "launch": "launcher",
    "other_launcher": "others",
    "run_in_place": "in_place",
}


def __getattr__(name: str) -> object:
    # A command that launches nothing must not pay for what launches.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
