"""The embedded world: a generated shop with a known truth, written in the raw formats of real datasets."""
