"""Pickles of `LMDB_Image`, read without unpickling: nothing that a pickle names is ever called.

The published scripts store each picture as the pickle of an object with the attributes `image`
(bytes, RGB, height x width x channels), `size` (height, width), `channels` and `id`. Here the
pickle's instructions are carried out by a machine that knows those which write such an object, on
plain values; anything else that a pickle asks for is refused. The standard `Unpickler` would
allocate what a few bytes ask for, and recurse as deep as they say, even where it may find no class.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

NOT_AN_IMAGE = "no pickled LMDB_Image"
RUNS_CODE = "pickle that asks to run code"
WRONG_SIZE = "bytes that do not fit the stated size"

_MOST_STEPS = 500
"""Instructions of a pickle; a picture takes about 30, or 70 with a NumPy number as its id."""
_CHANNELS = (1, 3, 4)
_NUMBERS = {
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
}
"""What a NumPy number as the id is made with; the id is not read."""


class PickleRefused(Exception):
    """A value that is no picture; its text is one of the reasons above. Never leaves ingest."""


@dataclass(frozen=True, kw_only=True)
class PickledImage:
    """A decoded picture."""

    pixels: bytes
    """uint8, height x width x channels, RGB (grey with one channel, RGBA with four)."""
    height: int
    width: int
    channels: int


def read_pickled_image(value: bytes) -> PickledImage:
    """Read the pickle of an `LMDB_Image`, which any module may define.

    Time and memory are bounded by the length of the value.

    Raises:
        PickleRefused: it is anything else.
    """
    held = _run(value)
    pixels, size = held.get("image"), held.get("size")
    if not isinstance(pixels, bytes) or not isinstance(size, tuple) or len(size) != 2:
        raise PickleRefused(NOT_AN_IMAGE)
    height, width, channels = (_whole_number(each) for each in (*size, held.get("channels")))
    fits = height > 0 and width > 0 and channels in _CHANNELS
    if not fits or len(pixels) != height * width * channels:
        raise PickleRefused(WRONG_SIZE)
    return PickledImage(pixels=pixels, height=height, width=width, channels=channels)


def _whole_number(value: object) -> int:
    if not isinstance(value, int):
        raise PickleRefused(NOT_AN_IMAGE)
    return value


class _Mark:
    """Where a run of values begins on the stack."""


class _Number:
    """A NumPy number or its type."""


class _ImageClass:
    """The class LMDB_Image."""


class _Image:
    """An object of it."""

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}


@dataclass
class _Machine:
    """What a pickle works on."""

    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if isinstance(value, _Mark):
            raise PickleRefused(NOT_AN_IMAGE)
        return value

    def pop_run(self) -> list[Any]:
        run = []
        while not isinstance(value := self.stack.pop(), _Mark):
            run.append(value)
        return run[::-1]

    def find(self, module: object, name: object) -> None:
        # Texts only: the hash of nested tuples takes as long as a few bytes say.
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleRefused(NOT_AN_IMAGE)
        if name == "LMDB_Image":
            self.push(_ImageClass())
        elif (module, name) in _NUMBERS:
            self.push(_Number())
        else:
            raise PickleRefused(RUNS_CODE)

    def make(self, *, call: bool) -> None:
        """A new object: an image without attributes, or a number."""
        arguments, kind = self.pop(), self.pop()
        if isinstance(kind, _ImageClass) and arguments == () and not call:
            self.push(_Image())
        elif isinstance(kind, _Number):
            self.push(_Number())
        else:
            raise PickleRefused(RUNS_CODE)

    def set_state(self) -> None:
        state, made = self.pop(), self.stack[-1]
        if isinstance(made, _Image) and isinstance(state, dict):
            made.attributes.update(state)
        elif not isinstance(made, _Number):
            raise PickleRefused(NOT_AN_IMAGE)

    def set_entries(self, run: list[Any]) -> None:
        entries = self.stack[-1]
        if not isinstance(entries, dict) or not all(isinstance(key, str) for key in run[::2]):
            raise PickleRefused(NOT_AN_IMAGE)
        entries.update(zip(run[::2], run[1::2], strict=True))


_Step = Callable[[_Machine, Any], object]

_VALUES = (
    *("BININT", "BININT1", "BININT2", "LONG1"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
)
_STEPS: dict[str, _Step] = {
    **dict.fromkeys(_VALUES, _Machine.push),
    **dict.fromkeys(("PROTO", "FRAME"), lambda _m, _: None),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), lambda m, at: m.memo.__setitem__(at, m.stack[-1])),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda m, at: m.push(m.memo[at])),
    "MEMOIZE": lambda m, _: m.memo.__setitem__(len(m.memo), m.stack[-1]),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "MARK": lambda m, _: m.push(_Mark()),
    "TUPLE": lambda m, _: m.push(tuple(m.pop_run())),
    "TUPLE1": lambda m, _: m.push((m.pop(),)),
    "TUPLE2": lambda m, _: m.push((m.pop(), m.pop())[::-1]),
    "TUPLE3": lambda m, _: m.push((m.pop(), m.pop(), m.pop())[::-1]),
    "GLOBAL": lambda m, names: m.find(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.find(*(m.pop(), m.pop())[::-1]),
    "NEWOBJ": lambda m, _: m.make(call=False),
    "REDUCE": lambda m, _: m.make(call=True),
    "BUILD": lambda m, _: m.set_state(),
    "SETITEM": lambda m, _: m.set_entries([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m, _: m.set_entries(m.pop_run()),
}
_CALLS = {"INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID"}


def _run(value: bytes) -> dict[str, Any]:
    """The attributes of the object that a pickle writes."""
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(value)):
            if opcode.name == "STOP":
                break
            step = _STEPS.get(opcode.name)
            if step is None or count == _MOST_STEPS:
                raise PickleRefused(RUNS_CODE if opcode.name in _CALLS else NOT_AN_IMAGE)
            step(machine, argument)
        made = machine.pop()
    except (ValueError, LookupError, TypeError, OverflowError, AttributeError) as error:
        raise PickleRefused(NOT_AN_IMAGE) from error
    if not isinstance(made, _Image):
        raise PickleRefused(NOT_AN_IMAGE)
    return made.attributes
