"""Encoders that ask for what they must not have: memory without end, or code to be run."""

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from pmm.errors import InputError
from pmm.model.encoders import encoder_sizes
from pmm.model.encoders.specs import TextSpec, VisionSpec
from pmm.model.encoders.vision_encoder import load_vision
from pmm.model.text_encoders.load_text import load_text
from pmm.shards.tokens import load_tokenizer


def text_with(small: tuple[Path, Path], place: Path, **changes: Any) -> Path:
    folder = Path(shutil.copytree(small[0], place))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


def vision_with(small: tuple[Path, Path], place: Path, **changes: Any) -> Path:
    folder = Path(shutil.copytree(small[1], place))
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"] |= changes
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


def without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any tensor of weights that is really allocated fails."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("allocated")

    monkeypatch.setattr("pmm.model.text_encoders.load_text.AutoModel.from_pretrained", refuse)
    monkeypatch.setattr("pmm.model.encoders.open_clip_tower.load_state_dict", refuse)
    monkeypatch.setattr(torch, "manual_seed", refuse)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 10**9, "intermediate_size": 10**9}, "parameters, but they have"),
        ({"vocab_size": 10**12}, "parameters, but they have"),
        ({"max_position_embeddings": 10**11}, "parameters, but they have"),
        ({"hidden_size": 10**18}, "makes no encoder"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers = 1000000; expected"),
        ({"num_hidden_layers": "many"}, "num_hidden_layers = many; expected"),
        ({"num_labels": 10**9}, "num_labels = 1000000000; expected"),
        ({"num_attention_heads": 0}, "makes no encoder"),
    ],
)
@pytest.mark.parametrize("seed", [None, 0])
def test_a_text_encoder_of_absurd_size_is_refused_before_anything_is_allocated(
    small: tuple[Path, Path],
    tmp_path: Path,
    changes: dict[str, Any],
    message: str,
    seed: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = text_with(small, tmp_path / "text", **changes)
    without_memory(monkeypatch)
    if seed is not None:
        message = message.replace("parameters, but they have", "GiB of weights, and .* free")
    with pytest.raises(InputError, match=message):
        load_text(TextSpec(encoder=str(folder), random_seed=seed))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 10**6, "head_width": 10**5}, "parameters, but they have"),
        ({"image_size": 10**7, "patch_size": 1}, "parameters, but they have"),
        ({"mlp_ratio": 1e9}, "parameters, but they have"),
        ({"layers": 10**6}, "layers = 1000000; expected"),
        ({"width": -64}, "makes no encoder"),
        ({"width": "wide"}, "makes no encoder"),
        ({"nonsense": 1}, "makes no encoder"),
    ],
)
@pytest.mark.parametrize("seed", [None, 0])
def test_a_vision_tower_of_absurd_size_is_refused_before_anything_is_allocated(
    small: tuple[Path, Path],
    tmp_path: Path,
    changes: dict[str, Any],
    message: str,
    seed: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = vision_with(small, tmp_path / "vision", **changes)
    without_memory(monkeypatch)
    if seed is not None:
        message = message.replace("parameters, but they have", "GiB of weights, and .* free")
    with pytest.raises(InputError, match=message):
        load_vision(VisionSpec(encoder=str(folder), random_seed=seed))


def test_an_encoder_that_does_not_fit_the_free_memory_is_refused(
    small: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_sizes, "free_bytes", lambda: 1000)
    for load, spec in (
        (load_text, TextSpec(encoder=str(small[0]))),
        (load_vision, VisionSpec(encoder=str(small[1]))),
    ):
        with pytest.raises(InputError, match="choose a smaller encoder"):
            load(spec)  # type: ignore[operator]


def test_a_config_file_of_many_megabytes_is_not_read(
    small: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_sizes, "LARGEST_CONFIG", 10_000)
    text = text_with(small, tmp_path / "text", more="x" * 10_000)
    vision = vision_with(small, tmp_path / "vision", more="x" * 10_000)
    for load, spec in (
        (load_text, TextSpec(encoder=str(text))),
        (load_vision, VisionSpec(encoder=str(vision))),
    ):
        with pytest.raises(InputError, match="no config of an encoder"):
            load(spec)  # type: ignore[operator]


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4000000000000]}}',
        b'{"a":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,0]}}',
    ],
)
@pytest.mark.parametrize("said", [None, 2**40, 2**63])
def test_headers_of_weights_that_lie_are_refused(
    small: tuple[Path, Path], tmp_path: Path, header: bytes, said: int | None
) -> None:
    text, vision = text_with(small, tmp_path / "t"), vision_with(small, tmp_path / "v")
    length = struct.pack("<Q", len(header) if said is None else said)
    content = (length + header).ljust(max(each.stat().st_size for each in text.iterdir()), b"\0")
    for folder in (text, vision):
        for path in folder.glob("*.safetensors"):
            path.write_bytes(content)
    for load, spec in (
        (load_text, TextSpec(encoder=str(text))),
        (load_vision, VisionSpec(encoder=str(vision))),
    ):
        with pytest.raises(InputError, match=r"cannot be read"):
            load(spec)  # type: ignore[operator]


CODE = "import pathlib\n\npathlib.Path({!r}).touch()\n\n\nclass C:\n    pass\n"


@pytest.mark.parametrize("family", ["another", "roberta"])
def test_code_in_the_folder_of_an_encoder_is_neither_asked_for_nor_run(
    small: tuple[Path, Path], tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    calls = {"AutoConfig": "evil.C", "AutoModel": "evil.C"}
    folder = text_with(small, tmp_path / "text", model_type=family, auto_map=calls)
    (folder / "evil.py").write_text(CODE.format(str(ran)))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "EvilTok", "auto_map": {"AutoTokenizer": ["evil.C"] * 2}})
    )

    def ask(prompt: str = "") -> str:
        raise AssertionError(f"asked: {prompt}")

    monkeypatch.setattr("builtins.input", ask)
    if family == "another":
        for load in (
            lambda: load_text(TextSpec(encoder=str(folder))),
            lambda: load_text(TextSpec(encoder=str(folder), random_seed=0)),
        ):
            with pytest.raises(InputError, match=r"only with code .* never runs such code"):
                load()
    else:  # the library knows the family itself, and needs no code for it
        assert load_text(TextSpec(encoder=str(folder))).width == 64
    why = r"only with code .* never runs such code" if family == "another" else "no padding token"
    with pytest.raises(InputError, match=why):
        load_tokenizer(str(folder))
    assert not ran.exists()


def test_pickled_weights_that_run_code_are_refused(
    small: tuple[Path, Path], tmp_path: Path
) -> None:
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (ran,))

    for place, load in (
        (text_with(small, tmp_path / "t"), lambda f: load_text(TextSpec(encoder=f))),
        (vision_with(small, tmp_path / "v"), lambda f: load_vision(VisionSpec(encoder=f))),
    ):
        size = sum(path.stat().st_size for path in place.glob("*.safetensors"))
        for path in place.glob("*.safetensors"):
            path.unlink()
        name = "pytorch_model.bin" if "t" in place.name else "open_clip_pytorch_model.bin"
        torch.save({"x": Evil(), "padding": torch.zeros(size // 4)}, place / name)
        with pytest.raises(InputError, match="cannot be read"):
            load(str(place))
    assert not ran.exists()
