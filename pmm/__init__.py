"""PMM: recommenders that know items by what they say and show (PMMRec, ICDE 2024)."""

__version__ = "0.1.0"
