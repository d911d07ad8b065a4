"""What `pmm inspect` says of targets and of a home folder, beside the paper's figures."""

import json
import shutil
from pathlib import Path

import pytest

from pmm.errors import BrokenArtefact, InputError
from pmm.ingest.sources.csv import CsvFiles, ingest_csv
from pmm.ingest.sources.hm import ingest_hm
from pmm.ingest.targets.paper_table_two import TABLE_II
from pmm.ingest.targets.target_tables import IngestOptions
from pmm.inspect import describe, summarise_cards
from pmm.storage.home import Home
from pmm.world import generate
from pmm.world.formats.hm_writer import write_hm

OPTIONS = IngestOptions(user_core=3, item_core=0, missing_image="text-only")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with H&M's targets and one that the paper lacks."""
    home = Home(tmp_path_factory.mktemp("home"))
    write_hm(generate("tiny", 0), home.raw("hm"))
    ingest_hm(home, None, [], IngestOptions(users=60))
    (home.root / "inter.csv").write_text(
        "user,item,ts\n" + "".join(f"u,i{n},{n}\n" for n in range(4))
    )
    (home.root / "items.csv").write_text("item,title\n" + "".join(f"i{n},T\n" for n in range(4)))
    files = CsvFiles(interactions=home.root / "inter.csv", items=home.root / "items.csv")
    ingest_csv(home, "My Shop", files, OPTIONS)
    return home.root


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def card_of(home: Path, target: str) -> dict:
    found: dict = json.loads((home / "targets" / target / "card.json").read_text())
    return found


def test_a_target_begins_with_its_figures_beside_the_papers_and_its_rules(made: Path) -> None:
    lines = describe(made / "targets" / "hm-shoes").splitlines()
    stats = card_of(made, "hm-shoes")["statistics"]
    assert " ".join(lines[0].split()) == "target users items actions per user sparsity %"
    assert lines[1].split()[:3] == ["HM", "Shoes", str(stats["users"])]
    assert lines[2].split() == ["in", "the", "paper", "21,666", "3,743", "164,621", "7.60", "99.81"]
    assert lines[3].split()[2] == f"{100 * (stats['users'] - 21_666) / 21_666:+.2f}"
    named = [line.partition(":")[0] for line in lines[4:9]]
    assert named == ["core", "carving", "sample", "repeats", "items without picture"]
    assert "product_group_name is Shoes" in lines[5]
    assert "60 users" in lines[6]
    assert "card.json" in lines


def test_a_target_that_the_paper_lacks_shows_its_own_figures(made: Path) -> None:
    lines = describe(made / "targets" / "my-shop").splitlines()
    assert lines[1].split() == ["My", "Shop", "1", "4", "4", "4.00", "0.00"]
    assert lines[2].startswith("core: users with at least 3 interactions")


def test_a_home_shows_all_datasets_of_the_paper_and_then_the_others(made: Path) -> None:
    lines = describe(made).splitlines()
    table = [line for line in lines[3:] if line[0] != " "]
    names = [line.split("  ")[0] for line in table]
    assert names == [*TABLE_II, "My Shop"]
    assert sum(line.startswith("  in the paper") for line in lines) == len(TABLE_II)
    assert sum(line.startswith("  difference %") for line in lines) == 3
    assert len({len(line) for line in table if "not ingested" in line}) == 1
    for name in ("Bili", "Kwai Movie", "Amazon Shoes"):
        line = next(line for line in table if line.startswith(f"{name} "))
        target = f" --target '{name}'" if " " in name else ""
        command = f"pmm ingest {name.split()[0].lower()}{target} --home {made}"
        assert line.rstrip().endswith(f"not ingested: {command}")


def test_a_home_marks_what_cannot_be_used(copy: Path) -> None:
    (copy / "targets" / "hm-shoes" / "items.parquet").unlink()
    (copy / "targets" / "my-shop" / "card.json").write_text("{")
    card = copy / "targets" / "hm-clothes" / "card.json"
    card.write_text(" " * card.stat().st_size)
    found = {line.split("  ")[0]: line for line in describe(copy).splitlines()}
    at_home = f"--home {copy}"
    assert found["HM Shoes"].endswith(f"damaged: pmm ingest hm --target 'HM Shoes' {at_home}")
    assert "damaged: pmm ingest hm --target 'HM Clothes'" in found["HM Clothes"]
    assert "damaged: pmm ingest csv --name my-shop --interactions FILE" in found["my-shop"]
    ingest_hm(Home(copy), None, ["HM Shoes"], OPTIONS)
    assert "damaged" not in next(x for x in describe(copy).splitlines() if x.startswith("HM Shoes"))


def test_a_home_marks_targets_whose_source_was_read_anew(copy: Path) -> None:
    listed = copy / "raw" / "hm" / "articles.csv"
    listed.write_text("\n".join(listed.read_text().splitlines()[:-1]))
    ingest_hm(Home(copy), None, ["HM"], OPTIONS)
    found = {line.split("  ")[0]: line for line in describe(copy).splitlines()}
    assert found["HM Shoes"].endswith(
        f"out of date: pmm ingest hm --target 'HM Shoes' --home {copy}"
    )
    assert "pmm ingest" not in found["HM"]


def test_the_default_home_needs_no_option(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMM_HOME", str(made))
    assert "--home" not in describe(made)


def test_what_is_nothing_of_ours_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nor a home folder"):
        describe(tmp_path)


def test_a_card_without_figures_is_told() -> None:
    with pytest.raises(BrokenArtefact, match="lacks its figures"):
        summarise_cards([{"target": "HM", "fresh": True}])


def test_the_summary_of_an_ingest_shows_the_difference(made: Path) -> None:
    cards = [{**card_of(made, "hm"), "fresh": False}]
    lines = summarise_cards(cards).splitlines()
    assert lines[1].endswith("unchanged")
    assert lines[3].split()[:2] == ["difference", "%"]
    assert all(part[0] in "+-" for part in lines[3].split()[2:])


def test_targets_that_are_left_out_for_one_reason_are_told_together() -> None:
    reasons = {"Kwai": "no files", "Kwai Food": "no files", "Kwai Movie": "Kwai Movie: no item"}
    told = summarise_cards([{"target": each, "left_out": why} for each, why in reasons.items()])
    assert told.splitlines()[1:] == [
        "Kwai, Kwai Food left out: no files",
        "Kwai Movie left out: no item",
    ]
