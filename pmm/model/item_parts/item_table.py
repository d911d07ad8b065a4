"""Items by their number alone: one embedding table, as in every recommender on item ids.

Shape suffixes: I distinct items, N items of the catalogue, D width.
"""

from torch import Tensor, nn

from pmm.shards.items import Items
from pmm.storage.schemas import PAD


class ItemTable(nn.Module):
    """A vector of its own for each of the items 1..N: a table [N + 1, D].

    Its values start from N(0, std), with `std` = 0 Xavier-normal as in the published code, whose
    standard deviation sqrt(2 / (N + 1 + D)) is large for a small catalogue.

    Row 0 stands for padding. It is zero, has no gradient, and a decay leaves zero as it is
    (docs/paper.md R46).
    """

    def __init__(self, n_items: int, width: int, *, std: float = 0.0) -> None:
        super().__init__()
        self.table = nn.Embedding(n_items + 1, width, padding_idx=PAD)
        if std:
            nn.init.normal_(self.table.weight, std=std)
        else:
            nn.init.xavier_normal_(self.table.weight)
        nn.init.zeros_(self.table.weight[PAD].data)

    def forward(self, items: Items) -> Tensor:
        """The vectors [I, D] of distinct items. Nothing of their content is read."""
        vector_ID: Tensor = self.table(items.item_I)
        return vector_ID
