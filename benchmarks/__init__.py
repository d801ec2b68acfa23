"""Measure sqlstore against every peer, in one process: ``python -m benchmarks``."""
