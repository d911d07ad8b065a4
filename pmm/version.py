"""The program's version, as manifests and runs record it."""

__version__ = "0.1.0"
