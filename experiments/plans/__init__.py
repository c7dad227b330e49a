"""Plans of the shipped experiments, kept as JSON: `python -m experiments.plans`."""
