"""Files damaged at random end in a card that adds up or in one clear error, never otherwise."""

import gzip
import random

import pytest

from pmm.errors import PmmError

INTERACTIONS = "user_id,item_id,rating,timestamp\n" + "".join(
    f"u{n % 5},i{n * 3 % 8},5,{1_600_000_000 + n}\n" for n in range(60)
)
INSERTED = [b'"', b",", b"\n", b"\r", b"\x00", b"\xff", b"\t", b"::", b"|", b"\xef\xbb\xbf"]


def damage(raw: bytes, rng: random.Random) -> bytes:
    at, length = rng.randrange(len(raw)), rng.randrange(1, 40)
    return rng.choice(
        [
            raw[:at],
            raw[:at] + bytes([rng.randrange(256)]) + raw[at + 1 :],
            raw[:at] + rng.choice(INSERTED) + raw[at:],
            raw[:at] + raw[at + length :],
            raw[: at + length] + raw[at:],
            raw.replace(b",", rng.choice([b";", b"\t", b"::", b" "])),
            raw.replace(b"16", rng.choice([b"", b"nan", b"1e999", b"9" * 25])),
            gzip.compress(raw)[: rng.choice([-5, 400])],
        ]
    )


@pytest.mark.parametrize("seed", range(40))
def test_damaged_interactions_add_up_or_are_told(ingest_text, adds_up, seed):
    rng = random.Random(seed)
    raw = INTERACTIONS.encode()
    for _ in range(rng.randrange(1, 4)):
        raw = damage(raw, rng) or b"\n"
    try:
        card = ingest_text(raw)
    except PmmError:
        return  # one of our own errors; any other exception fails the test
    assert adds_up(card)
