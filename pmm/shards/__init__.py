"""Targets -> WebDataset shards: pictures, tokens, tars, written and read; files of activations."""
