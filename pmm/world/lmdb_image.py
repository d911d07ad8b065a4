"""The picture class of the paper's published code: what the values of its LMDB stores are pickles
of.
"""

import numpy as np
import numpy.typing as npt


class LMDB_Image:
    """A decoded picture: its pixels [height, width, 3] as bytes, and its number.

    The published name: it stands in the pickles.
    """

    def __init__(self, image: npt.NDArray[np.uint8], id: int) -> None:
        self.channels = image.shape[2]
        self.size = image.shape[:2]
        self.image = image.tobytes()
        self.id = id
