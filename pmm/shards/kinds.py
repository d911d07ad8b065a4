"""What there is of an item, and how its activations are stored; names alone, so nothing heavy."""

from typing import Literal

Side = Literal["text", "vision"]
"""The two modalities, by the encoder that reads them."""


Storage = Literal["fp16", "fp32"]
"""The type in which activations are stored."""


Modality = Literal["both", "text", "vision"]
"""What a model that reads content reads of an item."""


Reads = Literal["both", "text", "vision", "none"]
"""What of an item's content is read; "none" where its number is all that a model knows."""


Split = Literal["valid", "test"]
