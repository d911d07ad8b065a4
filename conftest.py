"""What the examples of `pmm.api` find: `pmm`, and the home of a tiny shop with a trained run."""

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def shop_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny shop of the embedded world, all the way from its raw files to an evaluated run."""
    import pmm
    from pmm.demo.public_encoders import put_public_encoders
    from pmm.world.formats.csv_writer import write_csv
    from pmm.world.generate import generate

    home = tmp_path_factory.mktemp("examples")
    write_csv(generate("tiny"), "HM Shoes", home / "raw")
    put_public_encoders(home / "encoders")
    raw = home / "raw"
    pmm.ingest(
        "csv",
        name="shop",
        interactions=raw / "interactions.csv",
        items=raw / "items.csv",
        images=raw / "images",
        home=home,
    )
    pmm.shard(target="shop", text_encoder=str(home / "encoders" / "text"), home=home)
    pmm.evaluate(pmm.train(target="shop", model="sasrec", epochs=1, home=home).place)
    return home


@pytest.fixture(autouse=True)
def _names_of_examples(request: pytest.FixtureRequest, doctest_namespace: dict[str, Any]) -> None:
    if request.node.name.startswith("pmm.api"):
        import pmm

        doctest_namespace["pmm"] = pmm
        doctest_namespace["home"] = request.getfixturevalue("shop_home")
