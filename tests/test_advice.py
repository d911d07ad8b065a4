"""What the program prints to be run can be pasted: quoted, with its home, as it was made."""

import ast
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from pmm import advice
from pmm.cli import COMMANDS, app, main
from pmm.demo.small_encoders import save_small_encoders
from pmm.errors import PmmError
from pmm.ingest.sources.csv_presets import CsvRequest
from pmm.ingest.targets.target_tables import command_to_ingest
from pmm.runs.loading import command_to_train, load_run, saved_recipe
from pmm.runs.request import TrainRequest
from pmm.shards.read import Shards
from pmm.shards.write import command as command_to_shard
from pmm.storage.home import Home
from pmm.storage.made_by import FOLDER, command_that_made, remember

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "pmm").rglob("*.py"))
HOME = 'höme dir\'s "$HOME" `x`'
"""A folder whose name has all that a shell reads."""
ODD = [
    "two words",
    "it's",
    '"quoted"',
    "$HOME",
    "`id`",
    "a;b",
    "a&b",
    "*",
    "\\",
    "Ä",
    "-x",
    "#",
    "~",
]


@pytest.mark.parametrize("value", ODD)
def test_a_shell_gives_back_what_stood_in_a_command(value: str) -> None:
    line = advice.command("evaluate", f"/runs/{value}", target=value, home=Path("/data") / value)
    printed = subprocess.run(
        ["sh", "-c", f"pmm() {{ printf '%s\\0' \"$@\"; }}; {line}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    option = [f"--target={value}"] if value[0] == "-" else ["--target", value]
    expected = ["evaluate", f"/runs/{value}", *option, "--home", f"/data/{value}"]
    assert printed.split("\0")[:-1] == expected


def test_options_of_all_kinds() -> None:
    assert advice.command("x", a=None, b=False, c=True, d=("p", "q"), from_=3, two_words="") == (
        "pmm x --c --d p --d q --from 3 --two-words ''"
    )


def test_a_request_says_what_was_asked_for_beside_the_defaults() -> None:
    request = TrainRequest(
        stage="pretrain", sources=("HM", "My Shop"), set=("train.lr=1", "a=b"), recipe=Path("r")
    )
    said = advice.said_options(request)
    assert said == {
        "stage": "pretrain",
        "sources": "HM,My Shop",
        "set": ["train.lr=1", "a=b"],
        "recipe": str(Path.cwd() / "r"),
    }
    assert advice.said_options(CsvRequest(name="x", user_core=3), leave_out=["name"]) == {
        "user_core": 3
    }


# --- No command is written by hand ----------------------------------------------------------------

_PROSE = {"example", "epilog", "help"}
"""Arguments of text that is read, such as the examples of help."""


def texts_of(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """All strings of a module but docstrings and examples of help; of f-strings each part."""
    left_out = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            left_out.add(node.value)
        if isinstance(node, ast.keyword) and node.arg in _PROSE:
            left_out |= {each for each in ast.walk(node) if isinstance(each, ast.Constant)}
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in _PROSE:
            left_out |= {each for each in ast.walk(node) if isinstance(each, ast.Constant)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in left_out:
            yield node.lineno, node.value


def test_no_module_writes_a_command_of_pmm_by_hand() -> None:
    """They come from `pmm.advice.command`, which quotes them."""
    names = {f"pmm {name}" for name in COMMANDS}
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in SOURCES
        for line, text in texts_of(ast.parse(path.read_text(encoding="utf-8")))
        if any(name in " ".join(text.split()) for name in names)
    ]
    assert found == []


def test_the_search_for_commands_written_by_hand_finds_them() -> None:
    made = 'def f(x):\n    """Run `pmm train`."""\n    return f"Next: pmm train --target {x}"\n'
    assert [text for _, text in texts_of(ast.parse(made))] == ["Next: pmm train --target "]


def literal_calls() -> Iterator[tuple[str, list[str], list[str]]]:
    """Place, leading words and options of all calls of the maker that name a command."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called not in ("command", "command_line", "advice.command"):
                continue
            words = [each.value for each in node.args if isinstance(each, ast.Constant)]
            if words and words[0] in COMMANDS:
                options = [each.arg for each in node.keywords if each.arg]
                yield f"{path.relative_to(ROOT)}:{node.lineno}", words, options


def test_commands_in_messages_have_only_options_that_there_are() -> None:
    group: Any = typer.main.get_command(app)
    calls, wrong = list(literal_calls()), []
    for place, words, options in calls:
        made = group.get_command(None, words[0])
        if words[0] in ("ingest", "encoders", "paper"):
            if len(words) < 2:
                continue
            made = made.get_command(None, words[1])
        known = {option for each in made.params for option in each.opts}
        asked = {"--" + each.strip("_").replace("_", "-") for each in options}
        wrong += [f"{place}: {each}" for each in sorted(asked - known)]
    assert len(calls) > 15
    assert wrong == []


# --- Pasted ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two raw files, and a `pmm` for the shell."""
    folder = tmp_path_factory.mktemp("raw files")
    rows = [f"u{u},i{(u + k) % 12},{k}" for u in range(24) for k in range(6 + u % 3)]
    (folder / "the actions.csv").write_text("\n".join(["user,item,time", *rows]))
    titles = [f"i{i},title number {i}" for i in range(12)]
    (folder / "the items.csv").write_text("\n".join(["item,title", *titles]))
    (folder / "bin").mkdir()
    script = folder / "bin" / "pmm"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pmm "$@"\n')
    script.chmod(0o755)
    return folder


def pasted(line: str, place: Path, status: int = 0) -> str:
    """What a shell says to a line, in a folder where nothing is."""
    elsewhere = place / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    path = f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, cwd=elsewhere, env=environment
    )
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def after(mark: str, said: str) -> str:
    """The command that stands behind a word; a message has only one."""
    return said.partition(mark)[2].splitlines()[0].strip()


def pmm(capsys: pytest.CaptureFixture[str], *arguments: object, status: int | None = 0) -> str:
    """What the program says, in this process."""
    with pytest.raises(SystemExit) as ended:
        main([str(each) for each in arguments])
    said = capsys.readouterr()
    assert status is None or ended.value.code == status, said.err
    return said.out + said.err


def test_from_a_file_of_interactions_each_next_command_is_pasted_and_runs(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Models on ids need no other file, no tokenizer and no encoder."""
    home = place / HOME
    actions = place / "the actions.csv"
    ingest = advice.command("ingest", "csv", name="My Shop", interactions=actions, home=home)
    said = pmm(capsys, *words(advice.with_options(ingest, user_core=3, item_core=2)))
    assert "--no-content" in after("Next: ", said)
    said = pasted(after("Next: ", said), place)
    train = after("Next: ", said)
    assert "--model sasrec" in train
    said = pasted(f"{train} --epochs 1", place)
    said = pasted(after("Next: ", said), place)
    assert "HR@10" in said
    assert '"hr@10"' in pmm(capsys, *words(after("Look: ", said)))
    assert list((place / "elsewhere").iterdir()) == []


@pytest.fixture(scope="module")
def texts_home(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with a target that has titles and no pictures, sharded by a local encoder."""
    root = tmp_path_factory.mktemp("texts") / HOME
    encoder, _ = save_small_encoders(root / "en coders", ["title number"] * 9, seed=1)
    ingest = ["ingest", "csv", "--name", "My Films", "--home", root, "--missing-image", "text-only"]
    shard = ["shard", "--target", "My Films", "--home", root]
    files = ["--interactions", place / "the actions.csv", "--items", place / "the items.csv"]
    for line in (
        [*ingest, *files, "--user-core", 3, "--item-core", 2],
        [*shard, "--text-encoder", encoder, "--allow-no-pictures", "--max-tokens", 30],
    ):
        with pytest.raises(SystemExit) as ended:
            main([str(each) for each in line])
        assert ended.value.code == 0
    return Home(root)


def words(line: str) -> list[str]:
    """A printed command as the program gets it."""
    found = shlex.split(line)
    assert found[0] == "pmm"
    return found[1:]


def test_after_items_without_pictures_the_next_commands_say_so(
    texts_home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    again = words(command_to_ingest(texts_home, "My Films"))
    said = pmm(capsys, *again)
    shard = after("Next: ", said)
    assert "--allow-no-pictures" in shard
    made = words(command_to_shard("My Films", texts_home))
    said = pmm(capsys, *made)
    assert "unchanged" in said
    train = words(after("Next: ", said))
    assert train[train.index("--modality") + 1] == "text"
    said = pmm(capsys, *train, "--epochs", 1, "--set", "train.max_steps=1")
    assert "HR@10" in pmm(capsys, *words(after("Next: ", said)))


def test_advice_for_a_lost_tar_makes_the_same_shards_again(
    texts_home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    place = texts_home.shards("My Films")
    before = (place / "manifest.json").read_bytes()
    (place / "items-00000.tar").unlink()
    said = pmm(capsys, "train", "--target", "My Films", "--home", texts_home.root, status=1)
    advised = words(after("Run: ", said))
    assert {"--text-encoder", "--max-tokens", "--allow-no-pictures"} <= {*advised}
    pmm(capsys, *advised)
    assert (place / "manifest.json").read_bytes() == before


def test_a_home_without_memory_says_what_the_index_knows(texts_home: Home) -> None:
    memory = texts_home.root / FOLDER
    memory.rename(texts_home.root / "aside")
    try:
        shards = Shards.of(texts_home, "My Films")
        line = shards.command_to_make()
        expected = ["shard", "--target", "My Films", "--text-encoder", "FOLDER", "--max-tokens"]
        assert words(line) == [*expected, "30", "--home", str(texts_home.root)]
        assert "--interactions FILE" in command_to_ingest(texts_home, "My Films")
    finally:
        (texts_home.root / "aside").rename(memory)


def test_advice_on_a_damaged_run_trains_the_same_again(
    texts_home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["train", "--target", "My Films", "--model", "gru4rec", "--name", "my run", "--home"]
    asked = ["--epochs", 1, "--set", "model.width=8", "--seed", 5]
    pmm(capsys, *train, texts_home.root, *asked)
    run_dir = texts_home.run("my run")
    recipe = (run_dir / "recipe.toml").read_bytes()
    best = (run_dir / "checkpoint" / "best.safetensors").read_bytes()
    (run_dir / "checkpoint" / "best.safetensors").write_bytes(best[:100])
    with pytest.raises(PmmError) as refused:
        load_run(texts_home, run_dir)
    pmm(capsys, *words(after("Run: ", str(refused.value))))
    assert (run_dir / "recipe.toml").read_bytes() == recipe
    (run_dir / "checkpoint" / "best.safetensors").unlink()
    with pytest.raises(PmmError) as refused:
        load_run(texts_home, run_dir)
    assert "--resume" in words(after("Run: ", str(refused.value)))
    assert "--overwrite" in command_to_train(run_dir, saved_recipe(run_dir), overwrite=True)


def test_the_usual_home_is_not_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMM_HOME", str(tmp_path / "mine"))
    assert Home(tmp_path / "mine").option is None
    assert Home(tmp_path / "other").option == tmp_path / "other"
    assert "--home" not in command_to_ingest(Home(tmp_path / "mine"), "HM Shoes")


@pytest.mark.parametrize(
    "memory",
    [
        "",
        "[]",
        "{",
        json.dumps({"words": "shard", "options": {}}),
        json.dumps({"words": ["shard"], "options": []}),
        json.dumps({"words": ["shard", "\x1b[2J"], "options": {}}),
        json.dumps({"words": ["shard"], "options": {"target": "a\nb"}}),
        json.dumps({"words": ["shard"], "options": {"target": {"a": 1}}}),
    ],
)
def test_a_memory_that_is_damaged_is_none(tmp_path: Path, memory: str) -> None:
    home = Home(tmp_path)
    remember(home, home.shards("x"), "shard", target="x")
    assert command_that_made(home, home.shards("x")) == f"pmm shard --target x --home {tmp_path}"
    (tmp_path / FOLDER / "shards" / "x.json").write_text(memory)
    assert command_that_made(home, home.shards("x")) is None


def test_a_memory_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("in the way")
    remember(Home(tmp_path), Home(tmp_path).shards("x"), "shard", target="x")


@pytest.mark.parametrize(
    ("asked", "option", "without"),
    [
        (
            ("shard", "--target", "My Films", "--allow-no-pictures"),
            "--text-encoder",
            "--no-content",
        ),
        (("train", "--target", "My Films"), "--text-encoder", "--no-content"),
        (
            ("train", "--target", "My Films", "--text-encoder", "HERE", "--train-blocks", 0),
            "--vision-encoder",
            "--modality text",
        ),
    ],
)
def test_where_an_encoder_is_missing_the_message_names_the_option_and_the_recipes(
    texts_home: Home,
    asked: tuple[str, ...],
    option: str,
    without: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    text = texts_home.root / "en coders" / "text"
    line = [str(text) if each == "HERE" else each for each in asked]
    if "train" in line and "--text-encoder" not in line:
        line += ["--text-encoder", "no/such-encoder"]
    said = pmm(capsys, *line, "--home", texts_home.root, status=1)
    for part in (f"{option} NAME", f"{option} FOLDER", "recipes/", without):
        assert part in said
