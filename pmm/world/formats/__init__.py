"""The embedded world's raw files, in the layouts of the real datasets."""
