"""Hashtags of titles, and which of them make a target.

A tag is what follows `#` (or the full-width one) up to a space, another `#` or punctuation, in any
script; `#food#`, `#a#b` and `＃美食` are read too. Tags are compared in lower case, full-width
letters as plain ones.
"""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pmm.errors import InputError, nearest
from pmm.ingest.targets.rules import LevelRule
from pmm.storage.toml import parse_toml

DEFAULT_TAGS: dict[str, tuple[str, ...]] = {
    "Kwai Food": (
        *("food", "delicious", "gourmet", "cuisine", "cooking", "recipe", "snack"),
        *("美食", "吃货", "吃播", "小吃", "做饭", "家常菜", "菜谱", "烹饪", "零食"),
    ),
    "Kwai Movie": (
        *("movie", "film", "cinema", "tvseries", "drama"),
        *("电影", "影视", "电视剧", "追剧", "影片", "好剧"),
    ),
    "Kwai Cartoon": (
        *("cartoon", "anime", "animation", "animated", "comics", "manga"),
        *("动漫", "动画", "卡通", "漫画", "二次元", "国漫"),
    ),
}
"""Target -> beginnings of tags. The paper does not say how it carved Kwai; this is our choice."""

_ADVICE = (
    "No title has such a hashtag: name others with --hashtags FILE, or each item's category with "
    "--item-categories FILE (docs/paper.md shows both)"
)
_TAG = re.compile(r"#([^\s#,.!?;:…，。！？；：、@()\[\]{}<>\"'“”‘’《》【】|/\\~]+)")


@dataclass(frozen=True, kw_only=True)
class TagTable:
    """Which tags make which target."""

    tags: Mapping[str, tuple[str, ...]]
    """Target -> folded tags."""
    match: Literal["begins", "equal"] = "begins"
    """Whether a title's tag must begin with one of them or be one of them."""

    def rules(self) -> dict[str, LevelRule]:
        """The targets' rules over `categories` that hold folded tags."""
        return {
            name: LevelRule(least_level=0, values=tags, match=self.match, advice=_ADVICE)
            for name, tags in self.tags.items()
        }


def find_tags(title: str) -> list[str]:
    """The folded hashtags of a clean title, each once, in order.

    >>> find_tags("Noodles #Food#美食 ＃Ｙｕｍ! #food# so good, C# and # alone")
    ['food', '美食', 'yum']
    """
    return list(dict.fromkeys(_TAG.findall(fold_tag(title))))


def fold_tag(text: str) -> str:
    """A text as tags and categories are compared.

    >>> fold_tag("ＦＯＯＤ"), fold_tag("Straße")
    ('food', 'strasse')
    """
    return unicodedata.normalize("NFKC", text).casefold()


def read_tag_table(path: Path) -> TagTable:
    """The default table with a user's file laid over it.

    The file is TOML: a table [targets] of name = list of tags (a name that is in the default table
    replaces its tags there), and, if wanted, match = "equal".

    Raises:
        InputError: the file is missing, no TOML, or says something else.
    """
    try:
        content = parse_toml(path, "utf-8-sig")
    except OSError as error:
        raise InputError(f"--hashtags {path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"--hashtags {path} is no TOML file: {error}") from error
    for key in content:
        if key not in ("targets", "match"):
            raise InputError(f"--hashtags {path}: {key!r}: {nearest(key, ['targets', 'match'])}")
    match = content.get("match", "begins")
    if match not in ("begins", "equal"):
        raise InputError(f'--hashtags {path}: match = {match!r}; expected is "begins" or "equal"')
    targets = content.get("targets", {})
    if not isinstance(targets, dict) or not targets:
        raise InputError(
            f"--hashtags {path} has no table [targets] with lines such as "
            '"Kwai Food" = ["food", "美食"]'
        )
    tags = {_target_name(path, name): _tags(path, name, value) for name, value in targets.items()}
    return TagTable(tags={**DEFAULT_TAGS, **tags}, match=match)


def _target_name(path: Path, name: str) -> str:
    """The name, as the default table writes it if it is there."""
    plain = " ".join(name.split())
    if not re.fullmatch(r"kwai [\w .-]+", plain, re.IGNORECASE):
        raise InputError(
            f'--hashtags {path}: the target "{name}" must be named "Kwai …", with letters, digits, '
            "spaces, '.', '_' and '-'"
        )
    known = {each.casefold(): each for each in DEFAULT_TAGS}
    return known.get(plain.casefold(), "Kwai" + plain[4:])


def _tags(path: Path, name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(tag, str) for tag in value):
        raise InputError(f'--hashtags {path}: "{name}" must be a list of tags, as ["food", "美食"]')
    tags = tuple(dict.fromkeys(fold_tag(tag).strip().removeprefix("#") for tag in value))
    if not tags or "" in tags:
        raise InputError(f'--hashtags {path}: "{name}" has an empty tag or none at all')
    return tags
