"""Cold start: sequences cut at items with few training occurrences (paper IV-A; docs/paper.md R47).

The paper cuts a user's complete sequence at every cold item. A cut inside the training part asks
for an item that the model was trained to predict there; only those that end on the validation or
the test item are held out, and these are the headline.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pmm.arrays import Int32s, Int64s
from pmm.errors import BrokenArtefact
from pmm.evaluate.metrics import measure
from pmm.evaluate.ranking import Queries
from pmm.ingest.targets.target_tables import command_to_ingest
from pmm.shards.read import Shards
from pmm.shards.sequence_shards import Prefixes
from pmm.storage.artefact import open_artefact, require_input, snapshot
from pmm.storage.home import Home
from pmm.storage.schemas import COLD, read_table
from pmm.storage.verify import require_whole

_FORMER_ROWS = 4096
"""Cuts of a former version's table that are read at once: each has its whole history."""


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
        BrokenArtefact: they cannot be read, or name positions that the sequences do not have.
    """
    place, again = home.target(shards.target), command_to_ingest(home, shards.target)
    shard_again = shards.command_to_make()
    path, sequences = place / "cold.parquet", shards.sequences()
    with snapshot(place, f"the target {shards.target}").reading():
        target = open_artefact(place, kind="target", made_by=again)
        mark = target.fingerprint
        require_input(shards.place, shards.manifest, "target", mark, made_by=shard_again)
        require_whole(place, target.files, ["cold.parquet"], made_by=again)
        user_C, position_C, target_C = _read(path)
    length_U = sequences.train.lengths
    known = (user_C < len(length_U)).all() and (position_C <= length_U[user_C] + 1).all()
    if not known:
        raise BrokenArtefact(f"{path} has cuts where the sequences have no item. Run: {again}")
    # What precedes a user's last item begins with the history of each of their cuts.
    before, trained_C = sequences.history("test"), length_U[user_C]
    at_C = before.offsets[user_C] + np.minimum(position_C, trained_C)
    item_C = np.where(position_C > trained_C, sequences.test[user_C], before.values[at_C])
    if not np.array_equal(item_C, target_C):
        raise BrokenArtefact(f"{path} has other items than the sequences. Run: {again}")
    return ColdCuts(
        queries=Queries(
            user_U=user_C,
            target_U=target_C,
            history=Prefixes(lists=before, row=user_C, lengths=position_C),
        ),
        held_out_C=position_C >= trained_C,
    )


def _read(path: Path) -> tuple[Int32s, Int64s, Int32s]:
    """User, position and target of the cuts, of a table of former versions too.

    Those wrote each history out, and its length is the position.
    """
    try:
        with pq.ParquetFile(path) as file:
            former = "history" in file.schema_arrow.names
            lengths = [np.zeros(0, np.int64)]
            for batch in file.iter_batches(_FORMER_ROWS, columns=["history"]) if former else ():
                lengths.append(pc.list_value_length(batch["history"]).to_numpy())
    except (OSError, pa.ArrowInvalid) as error:
        raise BrokenArtefact(f"{path}: cannot be read as a {COLD.name} table ({error})") from error
    table = read_table(path, COLD, ["user", "target"] if former else None)
    position = np.concatenate(lengths) if former else table["position"].to_numpy()
    return (
        table["user"].to_numpy().astype(np.int32),
        position.astype(np.int64),
        table["target"].to_numpy().astype(np.int32),
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
