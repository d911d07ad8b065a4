"""`pmm check`: all of a home verified, and made again where it can be."""
