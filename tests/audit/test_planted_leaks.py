"""`pmm audit` finds each leak that was planted in a clean shop, in its number, and no other."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pmm.audit.audit_page import audit_page
from pmm.audit.audit_request import AuditOptions
from pmm.audit.audit_target import Audit, audit_target
from pmm.audit.findings import AuditFinding
from pmm.cli import main
from pmm.errors import InputError, MissingArtefact
from pmm.runs.recipe import Recipe
from pmm.storage.schemas import RANKS, SEQUENCES, read_table, write_table
from pmm.storage.toml import dump

PLANTED = 12
WAYS = ("compressed", "smaller", "brighter")


def finding(audit: Audit, about: str) -> AuditFinding:
    return next(each for each in audit.findings if each.about == about)


def warnings(audit: Audit) -> set[str]:
    return {each.about for each in audit.findings if each.level == "warning"}


def some_users(shop: Any) -> list[str]:
    return list(shop.histories)[:PLANTED]


def test_nothing_is_alarming_where_nothing_was_planted(shop_to_plant: Any) -> None:
    audit = shop_to_plant.audit(with_pictures=True)
    assert {each.level for each in audit.findings} == {"fine"}
    assert audit.time.later_targets == 0
    assert (audit.ties.tied_rows, audit.ties.decided_users) == (0, 0)
    assert (audit.texts.items, audit.pictures.items, audit.repeats.users) == (0, 0, 0)
    assert audit.pictures.looked_at > 40
    assert not audit.not_looked_at
    assert "Nothing alarming" in audit_page(audit)
    for floor in audit.ties.spread.values():
        assert all(each.low == each.high == each.in_file_order for each in floor.values())


def test_copies_of_pictures_under_other_ids_are_found(
    shop_to_plant: Any, change_picture: Callable[[bytes, str], bytes]
) -> None:
    for n, user in enumerate(some_users(shop_to_plant)):
        known = next(item for item in shop_to_plant.histories[user] if item in shop_to_plant.images)
        copy = f"copy{n}"
        shop_to_plant.histories[user][-1] = copy
        shop_to_plant.texts[copy] = f"unheard {n} of {n * 7} thing {n * 11}"
        shop_to_plant.images[copy] = change_picture(shop_to_plant.images[known], WAYS[n % 3])
    audit = shop_to_plant.audit(with_pictures=True)
    assert warnings(audit) == {"near-duplicate pictures"}
    assert audit.pictures.lookups == PLANTED
    assert audit.pictures.lookup_share == PLANTED / audit.users
    assert any(one.startswith("copy") or two.startswith("copy")
               for one, two in audit.pictures.examples)  # fmt: skip
    assert audit.texts.items == 0


def test_texts_that_are_written_otherwise_under_other_ids_are_found(shop_to_plant: Any) -> None:
    for n, user in enumerate(some_users(shop_to_plant)):
        known = shop_to_plant.histories[user][0]
        copy = f"copy{n}"
        shop_to_plant.histories[user][-1] = copy
        words = f"{shop_to_plant.texts[known]} one two three four five".split()
        shop_to_plant.texts[known] = " ".join(words)
        shop_to_plant.texts[copy] = " - ".join(reversed(words[n % 2 :])).upper()
    audit = shop_to_plant.audit()
    assert warnings(audit) == {"near-duplicate texts"}
    assert audit.texts.lookups == PLANTED
    assert "pmm shard --target shop" in audit.not_looked_at["pictures"]


def test_ties_that_decide_the_test_item_are_found(shop_to_plant: Any) -> None:
    for user in some_users(shop_to_plant):
        shop_to_plant.times[user][-2] = shop_to_plant.times[user][-1]
    audit = shop_to_plant.audit(draws=12)
    assert warnings(audit) == {"tied times"}
    assert audit.ties.decided_users == PLANTED / audit.users
    rows = sum(map(len, shop_to_plant.histories.values()))
    assert audit.ties.tied_rows == pytest.approx(2 * PLANTED / rows)
    assert any(
        each.low < each.high for floor in audit.ties.spread.values() for each in floor.values()
    )


def test_ties_before_the_test_item_decide_nothing(shop_to_plant: Any) -> None:
    for user in some_users(shop_to_plant):
        shop_to_plant.times[user][0] = shop_to_plant.times[user][1]
    audit = shop_to_plant.audit()
    assert audit.ties.decided_users == 0 < audit.ties.tied_rows
    assert finding(audit, "tied times").level == "fine"


def test_what_becomes_popular_after_the_test_is_found(shop_to_plant: Any) -> None:
    users = list(shop_to_plant.histories)
    early, late = users[: len(users) // 2], users[len(users) // 2 :]
    shop_to_plant.texts["hit"] = "the song of next summer"
    for user in early:
        shop_to_plant.histories[user][-1] = "hit"
    for user in late:
        shop_to_plant.histories[user][0] = "hit"
        shop_to_plant.times[user] = [time + 5 * 10_000_000 for time in shop_to_plant.times[user]]
    audit = shop_to_plant.audit()
    assert {"future popularity", "later in time"} <= warnings(audit)
    assert audit.time.popularity_of_all_time["hr@10"] >= 0.45
    assert audit.time.popularity_before["hr@10"] < 0.3
    assert audit.time.later_targets >= len(early) / len(users)
    assert audit.time.later_rows > 0.2


def test_repeats_are_found(shop_to_plant: Any) -> None:
    for user in some_users(shop_to_plant):
        shop_to_plant.histories[user][-1] = shop_to_plant.histories[user][0]
    audit = shop_to_plant.audit()
    assert warnings(audit) == {"repeats"}
    assert audit.repeats.users == PLANTED
    assert audit.repeats.new["popularity"]["users"] == audit.users - PLANTED


def test_a_user_who_makes_most_of_it_is_found(shop_to_plant: Any) -> None:
    user = some_users(shop_to_plant)[0]
    *train, valid, test = shop_to_plant.histories[user]
    before = shop_to_plant.times[user]
    shop_to_plant.histories[user] = [*train * 200, valid, test]
    shop_to_plant.times[user] = [before[0] - n for n in range(len(train) * 200, 0, -1)] + before[
        -2:
    ]
    audit = shop_to_plant.audit()
    assert warnings(audit) == {"who dominates"}
    assert audit.by_user.top_share > 0.4


def write_run(shop: Any, rank_U: np.ndarray, name: str = "first") -> Path:
    """A run's folder with ranks of the shop's test items."""
    run: Path = shop.home.run(name)
    run.mkdir(parents=True)
    (run / "recipe.toml").write_text(dump(Recipe(target="shop")))
    sequences = read_table(shop.home.target("shop") / "sequences.parquet", SEQUENCES)
    lengths = [len({*row["train"], row["valid"]} - {row["test"]}) for row in sequences.to_pylist()]
    n_items = 1 + max(
        max(*row["train"], row["valid"], row["test"]) for row in sequences.to_pylist()
    )
    columns = {
        "user": np.arange(len(rank_U)),
        "target": sequences["test"].to_numpy(),
        "rank": rank_U,
        "candidates": n_items - 1 - np.array(lengths),
        "train_count": np.ones(len(rank_U)),
    }
    table = pa.table({key: pa.array(value.astype(np.int32)) for key, value in columns.items()})
    write_table(run / "ranks.parquet", table, RANKS)
    return run


@pytest.mark.parametrize(("rank", "level"), [(1, "fine"), (40, "warning")])
def test_a_run_stands_beside_what_needs_no_training(
    shop_to_plant: Any, rank: int, level: str
) -> None:
    shop_to_plant.ingest()
    users = len(shop_to_plant.histories)
    run = write_run(shop_to_plant, np.full(users, rank))
    audit = audit_target(shop_to_plant.home, "shop", AuditOptions(draws=1), run=run)
    for each in audit.beside_run:
        hr = each.differences[0]
        assert hr.first == audit.floors[each.floor]["hr@10"] > 0
        assert hr.second == (rank <= 10)
        assert finding(audit, f"a run beside {each.floor}").level == level
    assert {each.floor for each in audit.beside_run} == {"popularity", "item kNN"}
    assert "first " in audit_page(audit)


def test_a_run_of_other_questions_or_without_ranks_is_refused(shop_to_plant: Any) -> None:
    shop_to_plant.ingest()
    run = write_run(shop_to_plant, np.ones(len(shop_to_plant.histories)))
    user = some_users(shop_to_plant)[0]
    items = shop_to_plant.histories[user]
    items[-1], items[-2] = items[-2], items[-1]
    shop_to_plant.ingest()
    with pytest.raises(InputError, match="ranked other test items"):
        audit_target(shop_to_plant.home, "shop", run=run)
    (run / "ranks.parquet").unlink()
    with pytest.raises(MissingArtefact, match="Run: pmm evaluate"):
        audit_target(shop_to_plant.home, "shop", run=run)


def test_the_same_seed_gives_the_same_audit_and_another_one_other_draws(shop_to_plant: Any) -> None:
    for user in list(shop_to_plant.histories):
        shop_to_plant.times[user] = [shop_to_plant.times[user][-1]] * len(shop_to_plant.times[user])
    shop_to_plant.ingest()
    one, same, other = (
        audit_target(shop_to_plant.home, "shop", AuditOptions(draws=3, seed=seed))
        for seed in (1, 1, 2)
    )
    assert one.as_json() == same.as_json()
    assert one.ties is not None
    assert other.ties is not None
    assert one.ties.spread != other.ties.spread


def pmm(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> tuple[str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(each) for each in arguments])
    assert (ended.value.code or 0) == status
    said = capsys.readouterr()
    return said.out, said.err


def test_the_command_prints_a_page_and_writes_it(
    shop_to_plant: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop_to_plant.ingest()
    asked = ["audit", "SHOP", "--home", shop_to_plant.home.root, "--draws", 2]
    out, _ = pmm(capsys, *asked, "--to", tmp_path / "audit.md")
    assert "# Audit of shop" in out
    assert (tmp_path / "audit.md").read_text(encoding="utf-8") == out
    pmm(capsys, *asked, "--to", tmp_path / "audit.json")
    found = json.loads((tmp_path / "audit.json").read_text())
    assert found["ties"]["draws"] == 2
    assert [each["level"] for each in found["findings"]]
    assert found == json.loads(
        json.dumps(audit_target(shop_to_plant.home, "shop", AuditOptions(draws=2)).as_json())
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["nothing"], 'unknown target "nothing"'),
        (["shop", "--to", "audit.xyz"], "name a file that ends in"),
        (["shop", "--to", "no-folder/audit.md"], "there is no folder"),
        (["shop", "--draws", 0], "--draws 0: must be at least 1"),
        (["shop", "--run", "none"], "Run: pmm"),
    ],
)
def test_what_cannot_be_audited_is_said(
    shop_to_plant: Any, capsys: pytest.CaptureFixture[str], more: list[object], said: str
) -> None:
    shop_to_plant.ingest()
    _, err = pmm(capsys, "audit", *more, "--home", shop_to_plant.home.root, status=1)
    assert said in err
    assert "Traceback" not in err
