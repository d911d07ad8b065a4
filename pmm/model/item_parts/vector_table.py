"""Frozen vectors of a catalogue as a part of a model: looked up by an item's number.

Shape suffixes: I items, N items of the catalogue, F width of the vectors.
"""

from torch import Tensor, nn

from pmm.model.features.item_features import ItemFeatures


class VectorTable(nn.Module):
    """The vectors of items 1..N, all fields of an item behind one another.

    They never train and are no part of a checkpoint: the store gives them again, and the digest of
    their encoders, which a checkpoint has, refuses others.
    """

    feature_NF: Tensor

    def __init__(self, features: ItemFeatures | None) -> None:
        """Keep them.

        Raises:
            ValueError: there are none.
        """
        super().__init__()
        read = require_vectors(features)
        self.made_by = dict(read.made_by)
        self.widths = [each_NF.shape[1] for each_NF in read.fields]
        self.register_buffer("feature_NF", read.joined(), persistent=False)

    @property
    def width(self) -> int:
        """F."""
        return sum(self.widths)

    def forward(self, item_I: Tensor) -> Tensor:
        """The vectors [I, F] of items by number."""
        return self.feature_NF[item_I - 1]


def require_vectors(features: ItemFeatures | None) -> ItemFeatures:
    """The vectors, without which a model that reads them cannot be built.

    Raises:
        ValueError: they are not there.
    """
    if features is None:
        raise ValueError("the model reads frozen vectors of items: build it with `features_of`")
    return features
