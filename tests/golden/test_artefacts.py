"""The tiny world becomes the same artefacts: fingerprints, files, cards, activations.

So a home that was made before stays good. `PMM_GOLDEN=write python -m pytest tests/golden` writes
the golden files anew (see conftest.py). The bytes of pictures and Parquet files are those of the
versions of Pillow, simplejpeg and pyarrow in constraints.txt.
"""

from typing import Any

from pmm_golden_compare import check_json
from pmm_golden_subjects import cards


def test_manifests_hold_the_same_fingerprints_configs_and_files(made: Any) -> None:
    check_json("manifests.json", made.manifests)


def test_cards_say_the_same(made: Any) -> None:
    check_json("cards.json", cards(made), rtol=1e-9)


def test_activations_hold_the_same_values(made: Any) -> None:
    check_json("activations.json", made.activations, rtol=2e-3, atol=1e-4)
