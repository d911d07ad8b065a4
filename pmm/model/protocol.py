"""What the rest of the program asks of a model."""

from collections.abc import Iterator
from typing import Protocol

from torch import nn

from pmm.model.encoders.text_encoder import TextEncoder
from pmm.model.encoders.vision_encoder import VisionEncoder


class HasEncoders(Protocol):
    """A model with encoders of content; None where it has none."""

    @property
    def text(self) -> TextEncoder | None:
        """What reads texts."""
        ...

    @property
    def vision(self) -> VisionEncoder | None:
        """What reads pictures."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """All weights."""
        ...
