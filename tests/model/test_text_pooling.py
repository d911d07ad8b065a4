"""The pooling of frozen vectors is the one that an encoder's own files say."""

import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import huggingface_hub
import pytest
import torch
from transformers import AutoModel, Qwen3Config

from pmm.errors import InputError
from pmm.model.encoders.specs import TextSpec
from pmm.model.features.frozen_vectors import frozen_vectors, text_vectors_trunk
from pmm.model.text_encoders.text_pooling import FIRST, LAST, MEAN, pooling_of


def say(folder: Path, config: Any, *, at: str = "1_Pooling") -> Path:
    """Put the files of sentence-transformers beside an encoder."""
    modules = [
        {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "path": at, "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / at).mkdir(exist_ok=True)
    (folder / at / "config.json").write_text(json.dumps(config))
    return folder


def switches(on: str) -> dict[str, Any]:
    names = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "lasttoken")
    told = {f"pooling_mode_{name}": name == on for name in names}
    return {"word_embedding_dimension": 64, **told, "include_prompt": True}


SAID = [
    (switches("mean_tokens"), MEAN),
    (switches("cls_token"), FIRST),
    (switches("lasttoken"), LAST),
    ({"embedding_dimension": 64, "pooling_mode": "cls", "include_prompt": True}, FIRST),
    ({"pooling_mode_mean_tokens": True}, MEAN),
]


@pytest.mark.parametrize(("config", "expected"), SAID)
def test_vectors_are_pooled_as_the_encoder_says(
    config: Any, expected: str, shop_maker: ModuleType, tmp_path: Path
) -> None:
    shop = shop_maker.open_shop(tmp_path / "shop")
    source = shop.options.text.encoder
    folder = Path(shutil.copytree(source, tmp_path / "text"))
    say(folder, config)
    shards = shop.shards()
    spec = TextSpec(encoder=str(folder))
    found = frozen_vectors(shards, text=spec, vision=None, storage="fp32").text_ND
    assert found is not None
    model = AutoModel.from_pretrained(source).eval()
    for row in range(shards.n_items):
        if shards.has_text[row + 1]:
            with torch.no_grad():
                token_1T = torch.from_numpy(shards.tokens[row].astype("int64"))[None]
                hidden_TD = model(input_ids=token_1T).last_hidden_state[0]
            literal = {MEAN: hidden_TD.mean(0), FIRST: hidden_TD[0], LAST: hidden_TD[-1]}
            torch.testing.assert_close(found[row], literal[expected], atol=1e-5, rtol=1e-5)


def test_an_encoder_that_says_nothing_is_read_by_the_mean_or_at_its_last_token(
    tmp_path: Path,
) -> None:
    assert pooling_of(str(tmp_path), causal=False) == MEAN
    assert pooling_of(str(tmp_path), causal=True) == LAST
    say(tmp_path, switches("cls_token"))
    assert pooling_of(str(tmp_path), causal=True) == FIRST
    (tmp_path / "modules.json").write_text("[]")
    assert pooling_of(str(tmp_path), causal=False) == MEAN


def test_a_decoders_vector_is_its_last_tokens(tmp_path: Path) -> None:
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}
    config = Qwen3Config(**size, num_key_value_heads=2, intermediate_size=64, vocab_size=100)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    trunk = text_vectors_trunk(TextSpec(encoder=str(tmp_path)))
    assert trunk.about["vectors"] == LAST


def test_vectors_of_different_poolings_are_kept_apart(
    shop_maker: ModuleType, tmp_path: Path
) -> None:
    shop = shop_maker.open_shop(tmp_path / "shop")
    folder = Path(shutil.copytree(shop.options.text.encoder, tmp_path / "text"))
    spec = TextSpec(encoder=str(folder))
    mean = frozen_vectors(shop.shards(), text=spec, vision=None).text_ND
    say(folder, switches("cls_token"))
    first = frozen_vectors(shop.shards(), text=spec, vision=None).text_ND
    assert mean is not None
    assert first is not None
    assert not torch.allclose(mean, first, atol=1e-2)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (switches("max_tokens"), "by pooling_mode_max_tokens"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "by pooling_mode_cls"),
        ({"pooling_mode": "weightedmean"}, "by weightedmean"),
        ({}, "by nothing"),
        ([], "no table"),
    ],
)
def test_other_poolings_are_refused(config: Any, message: str, tmp_path: Path) -> None:
    say(tmp_path, config)
    with pytest.raises(InputError, match=message):
        pooling_of(str(tmp_path), causal=False)


def test_damaged_files_are_told(tmp_path: Path) -> None:
    say(tmp_path, switches("cls_token"))
    (tmp_path / "1_Pooling" / "config.json").write_text("{ no")
    with pytest.raises(InputError, match=r"1_Pooling/config\.json cannot be read"):
        pooling_of(str(tmp_path), causal=False)
    (tmp_path / "1_Pooling" / "config.json").unlink()
    with pytest.raises(InputError, match="get the folder whole"):
        pooling_of(str(tmp_path), causal=False)
    (tmp_path / "modules.json").write_text('["Pooling"]')
    with pytest.raises(InputError, match="no list of modules"):
        pooling_of(str(tmp_path), causal=False)


def test_a_published_encoders_files_come_from_the_cache(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", "http://127.0.0.1:9")
    commit = "1" * 40
    repository = tmp_path / "models--maker--encoder"
    snapshot = repository / "snapshots" / commit
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    snapshot.mkdir(parents=True)
    assert pooling_of("maker/encoder", causal=False) == MEAN  # nothing known, nothing reached
    say(snapshot, switches("cls_token"))
    assert pooling_of("maker/encoder", causal=False) == FIRST
    shutil.rmtree(snapshot)
    snapshot.mkdir()
    absent = repository / ".no_exist" / commit
    absent.mkdir(parents=True)
    (absent / "modules.json").touch()
    assert pooling_of("maker/encoder", causal=True) == LAST
