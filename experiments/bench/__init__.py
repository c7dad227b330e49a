"""Benchmarks: every figure that the README names, each printed by one command."""
