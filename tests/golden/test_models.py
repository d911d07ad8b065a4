"""Every model starts with the same tensors under the same names, and its first losses are the same.

`PMM_GOLDEN=write python -m pytest tests/golden` writes the golden files anew (see conftest.py).
Values are compared with a tolerance, as processors round differently; parts that are built in
another order draw entirely different numbers.
"""

from pathlib import Path

import pytest
from pmm_golden_compare import check_json
from pmm_golden_subjects import MODELS, codes_of_clusters, start_of


@pytest.mark.parametrize("name", MODELS)
def test_a_models_tensors_their_values_its_groups_and_its_losses_are_those_of_before(
    name: str, small_encoders: tuple[Path, Path]
) -> None:
    check_json(f"models/{name}.json", start_of(name, small_encoders), rtol=1e-4, atol=1e-6)


def test_the_codes_of_items_are_learned_as_before() -> None:
    check_json("codes.json", codes_of_clusters())
