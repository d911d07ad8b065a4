"""Golden files: reading, writing on purpose, and comparing."""

import json
import math
import os
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
WRITING = os.environ.get("PMM_GOLDEN") in ("write", "runs")
TRAINING = os.environ.get("PMM_GOLDEN") == "runs"
HOW = "if that is meant: PMM_GOLDEN=write python -m pytest tests/golden"


def check_text(name: str, found: str) -> None:
    """Compare a text with its golden file."""
    path = FOLDER / name
    if WRITING:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(found, encoding="utf-8")
    assert path.is_file(), f"{name} is not there; {HOW}"
    assert found == path.read_text(encoding="utf-8"), f"{name} has changed; {HOW}"


def check_json(name: str, found: Any, *, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Compare JSON values with their golden file; floats within a tolerance.

    A text that reads "a | 1.5 2.5" is compared word by word, its words with a point as floats.
    """
    path = FOLDER / name
    plain = json.loads(json.dumps(found))
    if WRITING:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    assert path.is_file(), f"{name} is not there; {HOW}"
    golden = json.loads(path.read_text(encoding="utf-8"))
    faults = differences(golden, plain, rtol=rtol, atol=atol)
    shown = "\n".join(faults[:20])
    assert not faults, f"{name} has changed in {len(faults)} places:\n{shown}\n{HOW}"


def differences(golden: Any, found: Any, *, rtol: float, atol: float, place: str = "") -> list[str]:
    """Where two JSON values differ, the order of keys included."""
    near = {"rtol": rtol, "atol": atol}
    if isinstance(golden, dict) and isinstance(found, dict):
        faults = [f"{place}/{key} is gone" for key in golden if key not in found]
        faults += [f"{place}/{key} is new" for key in found if key not in golden]
        if not faults and list(golden) != list(found):
            faults = [f"{place}: the same keys in another order"]
        for key in golden:
            if key in found:
                faults += differences(golden[key], found[key], place=f"{place}/{key}", **near)
        return faults
    if isinstance(golden, list) and isinstance(found, list) and len(golden) == len(found):
        pairs = enumerate(zip(golden, found, strict=True))
        parts = [differences(a, b, place=f"{place}/{k}", **near) for k, (a, b) in pairs]
        return [fault for part in parts for fault in part]
    return [] if _alike(golden, found, rtol, atol) else [f"{place} was {golden!r}, is {found!r}"]


def _alike(golden: Any, found: Any, rtol: float, atol: float) -> bool:
    if isinstance(golden, float) and isinstance(found, float):
        return math.isclose(golden, found, rel_tol=rtol, abs_tol=atol)
    if isinstance(golden, str) and isinstance(found, str) and rtol:
        words, others = golden.split(), found.split()
        return len(words) == len(others) and all(
            math.isclose(float(a), float(b), rel_tol=rtol, abs_tol=atol)
            if _is_float(a) and _is_float(b)
            else a == b
            for a, b in zip(words, others, strict=True)
        )
    return bool(golden == found)


def _is_float(word: str) -> bool:
    if "." not in word and "e" not in word:
        return False
    try:
        float(word)
    except ValueError:
        return False
    return True
