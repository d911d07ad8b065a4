"""Arrays by the type of their numbers, each under one name in the whole package."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Int32s: TypeAlias = NDArray[np.int32]
"""Codes of users and items, and what is counted in them: half the memory of int64."""
Int64s: TypeAlias = NDArray[np.int64]
"""Positions, times, and numbers that index a tensor or another array."""
Float32s: TypeAlias = NDArray[np.float32]
"""Vectors and scores."""
Float64s: TypeAlias = NDArray[np.float64]
