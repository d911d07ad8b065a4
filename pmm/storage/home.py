"""Where artefacts live, and the names of sources and targets.

Everything stands below one home folder: `--home PATH`, else `$PMM_HOME`, else `./pmm-data`.
"""

import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from pmm.errors import InputError, nearest
from pmm.storage.json_files import JSON_ERRORS, parse_json

SOURCES = ("Bili", "Kwai", "HM", "Amazon")
"""The four platforms of the paper (section IV-A)."""

TARGETS = (
    *("Bili Food", "Bili Movie", "Bili Cartoon"),
    *("Kwai Food", "Kwai Movie", "Kwai Cartoon"),
    *("HM Clothes", "HM Shoes"),
    *("Amazon Clothes", "Amazon Shoes"),
)
"""The ten downstream datasets of the paper (section IV-A)."""


_SPACES = "".join(map(chr, (0x20, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000)))
"""Spaces that end no line: a name with a line break or a tab is none."""


def slug(name: str) -> str:
    """A target's folder name: lower case, `-` for spaces.

    >>> slug("Kwai Movie")
    'kwai-movie'

    Raises:
        InputError: the name holds anything but letters, digits, spaces, `.`, `_` and `-`, or is
            longer than 100 bytes.
    """
    composed = unicodedata.normalize("NFC", name)  # é is one sign, however it was typed
    folded = re.sub(rf"[{_SPACES}]+", "-", composed.strip(_SPACES).lower())
    if not re.fullmatch(r"[^\W_][\w.-]*", folded) or len(folded.encode()) > 100:
        raise InputError(
            f"{name[:50]!r} cannot name a target: use letters, digits, spaces, '.', '_' and '-', "
            "begin with a letter or digit, and take 100 bytes at most"
        )
    return folded


@dataclass(frozen=True)
class Home:
    """The home folder and the places of every artefact below it."""

    root: Path

    @classmethod
    def holding(cls, place: Path, kind: str) -> "Home | None":
        """The home folder of an artefact that a user named by its path; None: it lies in none.

        >>> Home.holding(Path("/data/runs/first"), "runs")
        Home(root=PosixPath('/data'))
        """
        whole = place.absolute()
        return cls(whole.parent.parent) if whole.parent.name == kind else None

    @property
    def option(self) -> Path | None:
        """What `--home` says for this folder; None where it is the one that is used anyway."""
        return None if self.root == resolve_home(None).root else self.root

    def raw(self, source: str) -> Path:
        """Where the user puts a source's raw files. PMM writes there only with --download."""
        return self.root / "raw" / slug(source)

    def tables(self, source: str) -> Path:
        """A source's interactions and items."""
        return self.root / "tables" / slug(source)

    def downloads(self, source: str) -> Path:
        """What PMM fetched for a source because the user asked: pictures and their outcomes."""
        return self.root / "downloads" / slug(source)

    def pictures(self, dataset: str) -> Path:
        """Pictures that had to be taken out of a store before they could be read as files."""
        return self.root / "pictures" / slug(dataset)

    def target(self, name: str) -> Path:
        """A target's numbered items and split sequences."""
        return self.root / "targets" / slug(name)

    def shards(self, name: str) -> Path:
        """A target's WebDataset shards."""
        return self.root / "shards" / slug(name)

    def activations(self, name: str) -> Path:
        """A target's frozen-trunk activations."""
        return self.root / "activations" / slug(name)

    def run(self, name: str) -> Path:
        """A training run."""
        return self.root / "runs" / slug(name)

    def find_run(self, run: Path) -> Path:
        """A run by its folder, by its name below the home folder, or by how either begins.

        Raises:
            InputError: several names begin so; the message lists them.
        """
        if os.path.exists(run):  # noqa: PTH110  (no error for a name that no file can have)
            # A folder may have any name; one that is only pointed at ("." or "..") has its own.
            return run if run.name not in ("", "..") else run.resolve()
        named = self.run(run.name)
        if named.exists():
            return named
        folders = [run.parent, named.parent] if run.name != str(run) else [named.parent]
        every = (each for folder in folders for each in folder.glob(f"{named.name}-*"))
        begin = sorted({each.absolute() for each in every if each.is_dir()})
        if len(begin) > 1:
            names = ", ".join(each.name for each in begin[:10])
            raise InputError(f"which run is {run}? There are {names}: give one whole name")
        return begin[0] if begin else named

    def tuning(self, name: str) -> Path:
        """The searches for options on a target, one folder a model."""
        return self.root / "tuning" / slug(name)

    def comparisons(self, name: str) -> Path:
        """What was compared on a target."""
        return self.root / "comparisons" / slug(name)

    def find_target(self, name: str) -> str:
        """The name as PMM writes it; case does not matter.

        Raises:
            InputError: neither a name of the paper nor a target that has been ingested here.
        """
        wanted = slug(name)
        known = {slug(each): each for each in (*SOURCES, *TARGETS)}
        for card in sorted((self.root / "targets").glob("*/card.json")):
            known.setdefault(card.parent.name, _written_name(card))
        if wanted in known:
            return known[wanted]
        raise InputError(f'unknown target "{name}": {nearest(name, known.values())}')


def _written_name(card: Path) -> str:
    """A target's name as its maker wrote it; its slug where the card does not say."""
    try:
        name = str(parse_json(card.read_bytes())["target"])
        return name if slug(name) == card.parent.name else card.parent.name
    except (*JSON_ERRORS, InputError):
        return card.parent.name


def resolve_home(option: Path | None) -> Home:
    """The home folder that the user chose, or the default."""
    chosen = option or Path(os.environ.get("PMM_HOME") or "pmm-data")
    return Home(whole_path(chosen))


def place_of_run(option: Path | None, run: Path) -> tuple[Home, Path]:
    """The home folder and a run's folder, from what a user gave as `--home` and as the run.

    Without `--home` it is the home that the run lies in, if it lies in one.

    Raises:
        InputError: as `Home.find_run`.
    """
    home = resolve_home(option)
    if option is None and run.parent.exists():
        home = Home.holding(run, "runs") or home
    return home, home.find_run(run)


def expanded(path: Path) -> Path:
    """A path with `~` and `~user` replaced by their folders.

    Raises:
        InputError: there is no such user.
    """
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise InputError(
            f"{path}: there is no user {path.parts[0][1:]!r} here. Give the whole path, or "
            f"./{path} for a folder of that name"
        ) from error


def whole_path(path: Path) -> Path:
    """A path from the root; `~` as in `expanded`.

    Raises:
        InputError: there is no such user, or the current folder has been deleted.
    """
    try:
        return expanded(path).absolute()
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: the current folder has been deleted. Change into one that is there, or give "
            "the whole path"
        ) from error


def require_same_name(place: Path, kind: str, name: str) -> None:
    """Refuse to write an artefact over that of another name with the same slug.

    Args:
        place: of the artefact.
        kind: what it is, for the message ("dataset").
        name: as its maker writes it.

    Raises:
        InputError: names both.
    """
    held = _name_in(place / "manifest.json") or name
    if held != name:
        raise InputError(
            f'"{name}" and "{held}", a {kind} that is here already, come to the same folder '
            f'({place}), and one would replace the other. Choose another name, or write "{held}" '
            "if you mean that one"
        )


def _name_in(manifest: Path) -> str | None:
    """The written name in an artefact's manifest; None where there is none that can be read."""
    try:
        config = parse_json(manifest.read_bytes())["config"]
        return str(config.get("target") or config["source"])
    except JSON_ERRORS:
        return None
