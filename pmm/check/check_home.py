"""All of a home, in the order in which one thing is made of another."""

from collections.abc import Iterator
from itertools import chain

from pmm.check.check_artefacts import ROOMS, check_artefacts, places_of
from pmm.check.check_runs import (
    check_comparisons,
    check_downloads,
    check_runs,
    check_searches,
)
from pmm.check.finding import Finding
from pmm.check.repair import repair
from pmm.errors import BrokenArtefact, MissingArtefact
from pmm.progress import progress
from pmm.storage.home import Home


def check_home(home: Home) -> list[Finding]:
    """Read all that is below a home and say what is whole; nothing is changed or locked.

    Raises:
        MissingArtefact: there is no such home, or nothing of pmm in it.
    """
    rooms = (*ROOMS, "runs", "tuning", "downloads")
    if not any((home.root / room).is_dir() for room in rooms):
        raise MissingArtefact(
            f"{home.root} is no home folder (no {', '.join(rooms)}). Give the folder of --home"
        )
    count = sum(len(places_of(home, room)) for room in ROOMS)
    count += sum(1 for room in rooms[len(ROOMS) :] for _ in (home.root / room).glob("*"))
    found = []
    with progress(count, f"Checking {home.root}", "artefacts and runs") as bar:
        for each in _all(home):
            found.append(each)
            bar.advance()
    return found


def check_and_repair(home: Home) -> tuple[list[Finding], list[str]]:
    """Check, make again what can be, and check again: what is found then, and what was done.

    Raises:
        MissingArtefact: as `check_home`.
    """
    done = repair(home, check_home(home))
    return check_home(home), done


def require_all_whole(found: list[Finding]) -> None:
    """Refuse a home in which anything is damaged.

    Raises:
        BrokenArtefact: says how many.
    """
    damaged = [each for each in found if each.state == "damaged"]
    if damaged:
        names = ", ".join(f"{each.place.parent.name}/{each.place.name}" for each in damaged[:5])
        raise BrokenArtefact(f"{len(damaged)} of {len(found)} damaged: {names}")


def _all(home: Home) -> Iterator[Finding]:
    return chain(
        check_downloads(home),
        check_artefacts(home),
        check_runs(home),
        check_searches(home),
        check_comparisons(home),
    )
