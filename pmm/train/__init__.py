"""Optimiser, loop, checkpoints, curves."""
