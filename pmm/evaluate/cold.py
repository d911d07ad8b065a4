"""Cold start: sequences cut at items with few training occurrences (paper IV-A; docs/paper.md R47).

The paper cuts a user's complete sequence at every cold item. A cut inside the training part asks
for an item that the model was trained to predict there; only those that end on the validation or
the test item are held out, and these are the headline.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmm.arrays import Int32s
from pmm.evaluate.metrics import measure
from pmm.evaluate.ranking import Queries
from pmm.ingest.targets.target_tables import command_to_ingest
from pmm.shards.read import Shards
from pmm.shards.sequence_shards import Lists
from pmm.storage.artefact import open_artefact, require_input
from pmm.storage.home import Home
from pmm.storage.schemas import COLD, read_table


@dataclass(frozen=True, kw_only=True)
class ColdCuts:
    """C cuts that end on a cold item, as queries; a user may have several."""

    queries: Queries
    held_out_C: NDArray[np.bool_]
    """Whether the cut ends on the user's validation or test item."""


def cold_cuts(home: Home, shards: Shards) -> ColdCuts:
    """The cuts that the ingest of a target found.

    Raises:
        MissingArtefact: the target's tables are not in the home folder.
        StaleArtefact: they are not those that the shards were made from.
    """
    place, again = home.target(shards.target), command_to_ingest(home, shards.target)
    target = open_artefact(place, kind="target", made_by=again)
    shard_again = shards.command_to_make()
    require_input(shards.place, shards.manifest, "target", target.fingerprint, made_by=shard_again)
    table = read_table(place / "cold.parquet", COLD).combine_chunks()
    user_C = table["user"].to_numpy().astype(np.int32)
    history = table["history"].combine_chunks()
    if not len(user_C):
        history = Lists(offsets=np.zeros(1, np.int64), values=np.zeros(0, np.int32))
    else:
        offsets = history.offsets.to_numpy().astype(np.int64)
        history = Lists(offsets=offsets, values=history.values.to_numpy())
    trained_C = shards.sequences().train.lengths[user_C]
    return ColdCuts(
        queries=Queries(
            user_U=user_C,
            target_U=table["target"].to_numpy().astype(np.int32),
            history=history,
        ),
        held_out_C=history.lengths >= trained_C,
    )


def summarise_cuts(cuts: ColdCuts, ranks: Mapping[str, Int32s]) -> dict[str, Any]:
    """Metrics of the cuts by ranking: "held_out" (the headline) and "all" (the paper's).

    Args:
        cuts: C of them.
        ranks: name of a ranking -> ranks [C].

    Returns:
        "items" that are asked for, and for both sets of cuts the metrics of each ranking.
    """
    held = cuts.held_out_C
    return {
        "items": len(np.unique(cuts.queries.target_U)),
        "held_out": {name: measure(rank_C[held]) for name, rank_C in ranks.items()},
        "all": {name: measure(rank_C) for name, rank_C in ranks.items()},
    }
