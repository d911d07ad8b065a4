"""Shards -> training batches: which users, in which order, loaded ahead."""
