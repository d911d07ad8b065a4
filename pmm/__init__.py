"""PMM: recommenders that know items by what they say and show (PMMRec, ICDE 2024)."""

import logging

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())
