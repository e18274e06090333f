"""Starts a training script: a path with arguments, whatever it is."""

from tune_launch.in_place import run_in_place

__all__ = ["run_in_place"]
