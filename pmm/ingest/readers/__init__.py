"""Bytes -> columns: delimited text, JSON lines, stores of pictures, times; for all sources."""
