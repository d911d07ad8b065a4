"""Commands that the program prints for somebody to run: one maker, so that each can be pasted.

Every part is quoted for the shell, whatever spaces, quotes or letters it holds. No message writes a
command of pmm by hand (`tests/test_advice.py`).
"""

import dataclasses
import shlex
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from pmm.flags import flagged

PLACEHOLDERS = ("DIR", "FILE", "FOLDER", "NAME", "RUN", "MODEL", "SOURCE")
"""Words that stand for what the program cannot know; a message that has one says what it is."""


def command(*words: object, **options: object) -> str:
    """A command of pmm, as a shell takes it.

    Args:
        words: the command's name and its arguments.
        options: by name, with `_` for `-` (`from_` for `--from`); None and False are left out, True
            is a switch, of a tuple or list each value has the option before it.

    >>> command("shard", target="HM Shoes", home=Path("/my home"), jpeg_quality=None, force=True)
    "pmm shard --target 'HM Shoes' --home '/my home' --force"
    >>> command("evaluate", "it's", target=("a", "-b"))
    'pmm evaluate \\'it\\'"\\'"\\'s\\' --target a --target=-b'
    """
    return " ".join(["pmm", *(shlex.quote(str(each)) for each in words), *_option_words(options)])


def with_options(made: str, **options: object) -> str:
    """A command with further options behind it.

    >>> with_options("pmm evaluate first", target="HM Shoes")
    "pmm evaluate first --target 'HM Shoes'"
    """
    return " ".join([made, *_option_words(options)])


def options_text(**options: object) -> str:
    """Options alone, for a sentence on the command that somebody has just typed.

    >>> options_text(text_encoder=Path("/my encoders/text"))
    "--text-encoder '/my encoders/text'"
    """
    return " ".join(_option_words(options))


def _option_words(options: Mapping[str, object]) -> Iterator[str]:
    for name, value in options.items():
        option = "--" + name.strip("_").replace("_", "-")
        for each in value if isinstance(value, tuple | list) else (value,):
            if each is True:
                yield option
            elif each is not None and each is not False:
                text = str(each)
                # An option would be seen in a value that begins as one.
                yield shlex.quote(f"{option}={text}") if text[:1] == "-" else option
                yield from () if text[:1] == "-" else (shlex.quote(text),)


def said_options(request: Any, leave_out: Collection[str] = ()) -> dict[str, Any]:
    """What was asked for beside the defaults, as the options that ask for it.

    Args:
        request: of a dataclass whose fields have flags.
        leave_out: names of fields.

    Returns:
        option (with `_` for `-`) -> its value, paths from the root: a command may be pasted
        elsewhere than where the first was typed.
    """
    found: dict[str, Any] = {}
    for field, _, flag in flagged(type(request)):
        value, default = getattr(request, field.name), field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if field.name in leave_out or flag.argument or value is None or value == default:
            continue
        # Of a switch with a name for off beside it, the one for on: off is what needs no saying.
        name = (flag.name.partition("/")[0] or field.name).strip("-_").replace("-", "_")
        found[name] = _whole(",".join(value) if flag.commas else value)
    return found


def _whole(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_whole(each) for each in value]
    return str(value.expanduser().absolute()) if isinstance(value, Path) else value
