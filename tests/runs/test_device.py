"""The choice of device and precision."""

import pytest
import torch

from pmm.errors import InputError
from pmm.runs.device import mixed, pick_device, pick_precision


def test_a_device_that_is_not_here_is_refused() -> None:
    with pytest.raises(InputError, match="give auto, cpu, cuda or cuda:N"):
        pick_device("graphics")
    with pytest.raises(InputError, match=r"torch sees \d+ GPUs. Give --device cpu"):
        pick_device("cuda:99")


def test_auto_takes_what_is_here() -> None:
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick_precision("auto", torch.device("cpu")) == torch.float32
    assert pick_precision("fp16", torch.device("cpu")) == torch.float16


@pytest.mark.parametrize(
    ("dtype", "product"), [(torch.bfloat16, torch.bfloat16), (torch.float32,) * 2]
)
def test_products_run_in_the_chosen_type(dtype: torch.dtype, product: torch.dtype) -> None:
    with mixed(torch.device("cpu"), dtype):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == product


def test_devices_that_torch_knows_but_nobody_trains_on_are_refused() -> None:
    with pytest.raises(InputError, match="give auto, cpu, cuda or cuda:N"):
        pick_device("meta")
    if not torch.backends.mps.is_available():
        with pytest.raises(InputError, match=r"no Apple GPU\. Give --device cpu"):
            pick_device("mps")


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_that_only_emulates_bf16_computes_in_fp16(
    monkeypatch: pytest.MonkeyPatch, native: bool, dtype: torch.dtype
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert pick_precision("auto", torch.device("cuda")) == dtype
