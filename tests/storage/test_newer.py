"""What a newer version of pmm made is named, not guessed at and not replaced."""

import json
from pathlib import Path

import pytest

from pmm.errors import StaleArtefact
from pmm.storage.artefact import build, open_artefact


def make(place: Path) -> None:
    def write(draft: Path) -> dict[str, int]:
        (draft / "data").write_text("1")
        return {}

    build(place, kind="x", config={}, inputs={}, write=write)


@pytest.mark.parametrize("more", [{}, {"checksums": {"data": 1}}])
def test_a_manifest_of_a_newer_version_is_refused_by_readers_and_writers(
    tmp_path: Path, more: dict[str, object]
) -> None:
    place = tmp_path / "a"
    make(place)
    path = place / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": "99.1", **more}))
    before = path.read_bytes()
    for attempt in (lambda: open_artefact(place, kind="x", made_by=""), lambda: make(place)):
        with pytest.raises(StaleArtefact, match=r"was made by pmm 99\.1, this is pmm .*Update pmm"):
            attempt()
    assert path.read_bytes() == before
