"""What a run is made of where the user says nothing, word by word as recipe.toml has it.

`PMM_GOLDEN=write python -m pytest tests/golden` writes the golden files anew (see conftest.py).
"""

from typing import Any

import pytest
from pmm_golden_compare import check_text
from pmm_golden_subjects import REQUESTS, recipe_text


@pytest.mark.parametrize("name", REQUESTS)
def test_the_resolved_recipe_is_that_of_before(made: Any, name: str) -> None:
    check_text(f"recipes/{name}.toml", recipe_text(made, name))
