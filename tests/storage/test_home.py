from pathlib import Path

import pytest

from pmm.errors import InputError
from pmm.storage.home import TARGETS, Home, require_same_name, resolve_home, slug


def test_the_option_wins_over_the_environment_and_that_over_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PMM_HOME", raising=False)
    assert resolve_home(None).root == tmp_path / "pmm-data"
    monkeypatch.setenv("PMM_HOME", str(tmp_path / "env"))
    assert resolve_home(None).root == tmp_path / "env"
    assert resolve_home(tmp_path / "option").root == tmp_path / "option"


def test_places_follow_from_the_slug(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert home.target("Kwai Movie") == tmp_path / "targets" / "kwai-movie"
    assert home.shards("HM") == tmp_path / "shards" / "hm"


@pytest.mark.parametrize(
    "name", ["../x", "", "a/b", "..", "a\nb/c", "-x", "x" * 300, "a\nb", "a\n", "a\tb", "a\x1bb"]
)
def test_a_name_cannot_leave_the_home_folder(name: str) -> None:
    with pytest.raises(InputError):
        slug(name)


def test_a_letter_with_an_accent_is_one_name_however_it_is_coded() -> None:
    assert slug("Caf\u00e9") == slug("Cafe\u0301") == "caf\u00e9"


def test_two_names_of_one_folder_are_refused_with_both(tmp_path: Path) -> None:
    place = tmp_path / "tables" / "a-b"
    require_same_name(place, "dataset", "A-B")
    place.mkdir(parents=True)
    (place / "manifest.json").write_text('{"config": {"source": "a b"}}')
    require_same_name(place, "dataset", "a b")
    with pytest.raises(InputError, match='"A-B" and "a b"'):
        require_same_name(place, "dataset", "A-B")


def test_a_home_of_no_user_and_a_folder_that_is_gone_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="no user 'nouser-of-pmm'"):
        resolve_home(Path("~nouser-of-pmm/x"))
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(InputError, match="current folder has been deleted"):
        resolve_home(Path("x"))


def test_case_does_not_matter_and_a_typo_answers_with_the_nearest(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert [home.find_target(name.upper()) for name in TARGETS] == list(TARGETS)
    with pytest.raises(InputError, match='did you mean "HM Shoes"'):
        home.find_target("HM Shoos")


def test_a_target_of_the_users_own_is_found_once_it_is_there(tmp_path: Path) -> None:
    (tmp_path / "targets" / "my-shop").mkdir(parents=True)
    (tmp_path / "targets" / "my-shop" / "card.json").write_text('{"target": "My Shop"}')
    assert Home(tmp_path).find_target("my-shop") == "My Shop"
