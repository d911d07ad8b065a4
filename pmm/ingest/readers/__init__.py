"""Bytes -> columns: delimited text, JSON lines, times; for all sources."""
