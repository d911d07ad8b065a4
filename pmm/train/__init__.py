"""Shards and a recipe -> a run's folder: the trainer, its curves and its interruptions."""
