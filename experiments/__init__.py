"""Experiments: one Python file each, defining `experiment() -> Experiment`. Copy `forkme.py`."""
