"""The small encoders of the demo and of every test of the project."""

from pathlib import Path

import open_clip
from transformers import AutoModel, AutoTokenizer

from pmm.demo.small_encoders import SmallSizes, save_small_encoders

SIZES = SmallSizes(width=32, blocks=2, heads=1, vocabulary=280)
TEXTS = ["red shirt", "Rotes Hemd für Kinder", "红色连衣裙", "红色衬衫"] * 3


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_same_texts_and_seed_give_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        save_small_encoders(tmp_path / name, iter(TEXTS), seed=seed, sizes=SIZES)
    first = content(tmp_path / "a")
    assert first == content(tmp_path / "b")
    differing = {k for k, v in content(tmp_path / "c").items() if v != first[k]}
    assert differing == {"text/model.safetensors", "vision/open_clip_model.safetensors"}


def test_the_libraries_load_what_was_saved(small: tuple[Path, Path]) -> None:
    text = AutoModel.from_pretrained(small[0], add_pooling_layer=False)
    assert (text.config.hidden_size, len(text.encoder.layer)) == (64, 3)
    vision = open_clip.create_model(f"local-dir:{small[1]}").visual
    assert (vision.conv1.out_channels, len(vision.transformer.resblocks)) == (64, 3)


def test_the_tokenizer_reads_back_any_language(small: tuple[Path, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(str(small[0]))
    for text in ("red cotton shirt", "红色连衣裙", "未见过的字 ①", "für kinder", "emoji 👗"):
        ids = tokenizer(text)["input_ids"]
        assert (ids[0], ids[-1]) == (0, 2)
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text.replace("①", "1")
    assert tokenizer.pad_token_id == 1
    assert tokenizer("red")["input_ids"] == tokenizer("RED")["input_ids"]
