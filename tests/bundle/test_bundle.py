"""A bundle answers as its run does, and holds all that this takes."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

import pmm
from pmm.bundle.bundle_options import BundleOptions
from pmm.bundle.make_bundle import export_run
from pmm.bundle.open_bundle import Bundle, open_bundle
from pmm.errors import InputError, MissingArtefact
from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import evaluate_run
from pmm.model import registry
from pmm.recommend.answers import NewItem, Wanted
from pmm.recommend.loaded_model import LoadedModel
from pmm.recommend.open_run import open_model
from pmm.storage.schemas import RANKS, RECOMMENDATIONS, read_table

CASES: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in registry.models()]
CASES += [("pmmrec", {"items": "vectors"}), ("pmmrec", {"modality": "text"})]
CASES += [("pmmrec", {"modality": "vision", "items": "vectors"})]
CASES += [("pmmrec", {"residual": "item", "residual_from": 2, "fusion": "film"})]
CASES += [("peterrec", {"scaling": "whiten"}), ("unisrec", {"scaling": "standardise"})]


def new_items(shop: Any, content: str) -> list[NewItem]:
    picture = (shop.home.root / "pictures" / "3.png").read_bytes()
    both = NewItem(item_id="new", text="a red article", image=picture, categories=("Hats",))
    text = NewItem(item_id="words", text="article number 12 sort 3")
    shown = NewItem(item_id="shown", image=picture)
    return [both, *([text] if content != "vision" else []), *([shown] * (content != "text"))]


def answers(model: LoadedModel, histories: list[list[str]]) -> Any:
    wanted = Wanted(k=len(model.state), popularity="chosen")
    return model.recommend(histories, Wanted(k=20)) + model.recommend(histories, wanted)


@pytest.mark.parametrize(("name", "changes"), CASES)
def test_a_bundle_answers_bit_for_bit_as_its_run(
    shop: Any, runs: Any, tmp_path: Path, name: str, changes: dict[str, Any]
) -> None:
    options = runs.options_of(shop, name, **changes)
    run = runs.make_run(shop, tmp_path / "run", options)
    header = export_run(shop.home, run, tmp_path / "bundle")
    model, again = open_model(shop.home, run), open_bundle(tmp_path / "bundle")
    ids = list(model.state.ids)
    histories = [ids[:3], ids[5:20], ids[4:5], ["?"], []]
    assert answers(again, histories) == answers(model, histories)
    assert again.similar(ids[2]) == model.similar(ids[2])
    assert again.explain(ids[:4], ids[9]) == model.explain(ids[:4], ids[9])
    assert again.version == model.version
    assert [again.card(each) for each in ids] == [model.card(each) for each in ids]
    assert [again.picture(each) for each in ids] == [model.picture(each) for each in ids]
    if header.cannot_add:
        for each in (model, again):
            with pytest.raises(InputError, match="holds something of each single item"):
                each.add_items([NewItem(item_id="new", text="words")])
        return
    added = new_items(shop, header.content)
    for each in (model, again):
        each.add_items(added)
    for each in added:
        row = model.state.find(each.item_id)
        assert np.array_equal(again.state.input_NW[row], model.state.input_NW[row])
        assert np.array_equal(again.state.score_ND[row], model.state.score_ND[row])
    assert answers(again, [["new", ids[3]]]) == answers(model, [["new", ids[3]]])


@pytest.fixture(scope="module")
def made(shop: Any, runs: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run that was evaluated, warm and cold, and its bundle."""
    folder = tmp_path_factory.mktemp("made")
    options = runs.options_of(shop, "pmmrec", items="vectors")
    run = runs.make_run(shop, folder / "run", options)
    evaluate_run(shop.home, run, EvaluateOptions(gallery_users=0, cold=True))
    export_run(shop.home, run, folder / "bundle")
    return run, folder / "bundle"


def test_its_test_users_have_the_ranks_of_the_evaluation(made: tuple[Path, Path]) -> None:
    run, place = made
    bundle = Bundle(place)
    users, model = bundle.users(), bundle.load()
    ranks = read_table(run / "ranks.parquet", RANKS)
    assert [user.rank for user in users] == ranks["rank"].to_pylist()
    assert [user.user_id for user in users] == [f"u{k}" for k in ranks["user"].to_pylist()]
    for user in users:
        (answer,) = model.recommend([user.history], Wanted(k=100, keep_history=True))
        scores = {each.item_id: each.score for each in answer.items}
        others = scores.keys() - set(user.history) | {user.target}
        assert sum(scores[each] >= scores[user.target] for each in others) == user.rank


def test_it_stands_alone(
    made: tuple[Path, Path], shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The home folder that it was made in is gone, and so is every path of it."""
    _, place = made
    shutil.copytree(place, tmp_path / "elsewhere")
    home = str(shop.home.root)
    for path in (tmp_path / "elsewhere").rglob("*"):
        assert not path.is_file() or home.encode() not in path.read_bytes(), path
    shop.home.root.rename(tmp_path / "away")
    try:
        monkeypatch.chdir(tmp_path)
        found = pmm.load("elsewhere")
        ids = list(found.model.state.ids)
        found.add_items([{"item_id": "new", "text": "a red article"}])
        assert len(found.recommend([ids[0], "new"], k=5)) == 5
        assert found.metrics["model"]["users"] == 24
        assert found.recipe.model.name == "pmmrec"
    finally:
        (tmp_path / "away").rename(shop.home.root)


def test_no_file_of_it_is_a_pickle_and_the_sums_are_those_of_sha256sum(
    made: tuple[Path, Path],
) -> None:
    _, place = made
    kinds = {path.suffix or path.name for path in place.rglob("*") if path.is_file()}
    assert kinds == {".json", ".md", ".parquet", ".safetensors", ".tar", ".toml", "SHA256SUMS"}
    for path in place.rglob("*.safetensors"):
        with safe_open(path, framework="np") as file:
            assert list(file.keys())
    tool = shutil.which("sha256sum")
    if tool is None:
        pytest.skip("there is no sha256sum here")
    command = [tool, "--check", "--strict", "SHA256SUMS"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    checked = {line.rpartition(":")[0] for line in done.stdout.splitlines()}
    files = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
    assert checked == files - {"SHA256SUMS"}


def test_the_card_says_data_split_metrics_with_intervals_and_licences(
    made: tuple[Path, Path], shop: Any
) -> None:
    run, place = made
    card = (place / "README.md").read_text()
    assert shop.shards().fingerprint in card
    assert "leave one out" in card
    hits = json.loads((run / "metrics.json").read_text())["model"]["hr@10"]
    warm = next(line for line in card.splitlines() if line.startswith("| all users"))
    assert f"| {100 * hits:.2f} (" in warm
    low, high = warm.split("(")[1].split(")")[0].split(" to ")
    assert float(low) <= 100 * hits <= float(high)
    assert "cold items, held out" in card
    assert "licence of the text and the vision encoder is not known" in card


def test_pictures_and_test_users_are_left_out_where_asked(
    shop: Any, runs: Any, tmp_path: Path
) -> None:
    run = runs.make_run(shop, tmp_path / "run", runs.options_of(shop, "sasrec"))
    options = BundleOptions(pictures=False, test_users=0)
    header = export_run(shop.home, run, tmp_path / "bundle", options)
    assert (header.pictures, header.users) == (0, 0)
    assert not (tmp_path / "bundle" / "pictures.tar").exists()
    bundle = Bundle(tmp_path / "bundle")
    assert bundle.users() == []
    assert bundle.load().picture("0000000001") is None
    few = export_run(shop.home, run, tmp_path / "few", BundleOptions(test_users=5))
    users = Bundle(tmp_path / "few").users()
    assert few.users == 5
    assert [user.user_id for user in users] == ["u0", "u6", "u12", "u17", "u23"]


def test_another_target_is_exported_without_training(shop: Any, runs: Any, tmp_path: Path) -> None:
    shop.add_target("Other", n_items=12, n_users=8, categories=[["A"], ["B"]] * 6)
    run = runs.make_run(shop, tmp_path / "run", runs.options_of(shop, "pmmrec"))
    export_run(shop.home, run, tmp_path / "bundle", target="Other")
    model = open_model(shop.home, run, target="Other")
    again = open_bundle(tmp_path / "bundle")
    ids = list(model.state.ids)
    assert answers(again, [ids[:2]]) == answers(model, [ids[:2]])
    wanted = Wanted(categories=["A"])
    assert again.recommend([ids[:1]], wanted) == model.recommend([ids[:1]], wanted)


def test_pmm_recommend_answers_from_a_bundle_as_from_its_run(
    made: tuple[Path, Path], shop: Any, tmp_path: Path
) -> None:
    run, place = made
    users = tmp_path / "users.csv"
    ids = open_bundle(place).state.ids
    users.write_text(f"user_id,items\na,{ids[3]} {ids[8]}\nb,{ids[0]}\nc,unknown\n")
    new = tmp_path / "new.csv"
    new.write_text("item_id,text\nnew-1,a red article\n")
    asked: dict[str, Any] = {"users": users, "items": new, "k": 7}
    told = pmm.recommend(run, out=tmp_path / "run.parquet", home=shop.home.root, **asked)
    again = pmm.recommend(place, out=tmp_path / "bundle.parquet", home=tmp_path / "none", **asked)
    one, other = (read_table(tmp_path / f"{n}.parquet", RECOMMENDATIONS) for n in ("run", "bundle"))
    assert one.num_rows == 21
    assert other.equals(one)
    assert again["popular_users"] == told["popular_users"] == 1
    # The same is asked of the same model: what stands there is taken for it.
    before = (tmp_path / "run.parquet").stat().st_ino
    pmm.recommend(place, out=tmp_path / "run.parquet", **asked)
    assert (tmp_path / "run.parquet").stat().st_ino == before
    with pytest.raises(InputError, match="--users FILE"):
        pmm.recommend(place, out=tmp_path / "all.parquet")
    with pytest.raises(InputError, match="leave out --target"):
        pmm.recommend(place, out=tmp_path / "other.parquet", target="Other", users=users)


def test_opening_it_draws_no_random_numbers(made: tuple[Path, Path]) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    open_bundle(made[1]).add_items([NewItem(item_id="new", text="a red article")])
    assert torch.equal(torch.rand(3), expected)


def test_pmm_load_says_what_a_bundle_cannot_do(made: tuple[Path, Path], shop: Any) -> None:
    run, place = made
    with pytest.raises(InputError, match="one target"):
        pmm.load(place, target="Other")
    with pytest.raises(InputError, match=r"pmm export .* --onnx"):
        pmm.load(run, home=shop.home.root, onnx=True)
    with pytest.raises(InputError, match="no ONNX graphs"):
        open_bundle(place, onnx=True)
    with pytest.raises(MissingArtefact, match="ask the run"):
        _ = pmm.load(place).ranks


def test_an_index_of_a_bundle_is_measured_by_its_test_users(
    shop: Any, runs: Any, tmp_path: Path
) -> None:
    run = runs.make_run(shop, tmp_path / "run", runs.options_of(shop, "sasrec"))
    export_run(shop.home, run, tmp_path / "bundle", BundleOptions())
    bundle = Bundle(tmp_path / "bundle")
    model = bundle.load()
    assert model.index is None  # so few items are scanned
    ids = model.state.ids
    histories = [tuple(ids[row] for row in rows) for rows in model.sample()]
    assert histories == [each.history for each in bundle.users()]
    indexed = bundle.load(index="approximate")
    assert indexed.index is not None
    assert indexed.recommend(histories) == model.recommend(histories)
