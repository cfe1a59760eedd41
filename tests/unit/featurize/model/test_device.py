import pytest
import torch

from featurize.model.device import has_fast_bfloat16, resolve_device, resolve_dtype

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(params=[False, True], ids=["without cuda", "with cuda"])
def has_cuda(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param)
    return bool(request.param)


def test_auto_prefers_cuda(has_cuda: bool) -> None:
    expected = torch.device("cuda", 1) if has_cuda else CPU
    assert resolve_device("auto", local_rank=1) == expected


def test_cpu_is_cpu_everywhere(has_cuda: bool) -> None:
    assert resolve_device("cpu", local_rank=1) == CPU


def test_cuda_is_refused_without_a_device(has_cuda: bool) -> None:
    if has_cuda:
        assert resolve_device("cuda") == torch.device("cuda", 0)
        return
    with pytest.raises(ValueError, match=r"runtime\.device is 'cuda', but") as caught:
        resolve_device("cuda")
    assert "--set runtime.device=auto" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("mixed_precision", [True, False])
def test_a_named_number_format_is_used(name: str, mixed_precision: bool) -> None:
    expected = getattr(torch, name)
    assert resolve_dtype(name, CPU, mixed_precision=mixed_precision) == expected


@pytest.mark.parametrize(
    ("capabilities", "is_fast"),
    [
        ({"avx2": True}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"avx512_bf16": False, "amx_bf16": False}, False),
    ],
)
def test_auto_on_cpu_is_bfloat16_only_where_the_hardware_has_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], is_fast: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert has_fast_bfloat16(CPU) is is_fast
    assert resolve_dtype("auto", CPU) == (torch.bfloat16 if is_fast else torch.float32)
    assert resolve_dtype("auto", CPU, mixed_precision=False) == torch.float32


@pytest.mark.parametrize("is_fast", [True, False])
def test_auto_on_cuda_does_not_count_emulated_bfloat16(
    monkeypatch: pytest.MonkeyPatch, is_fast: bool
) -> None:
    def is_supported(including_emulation: bool = True) -> bool:
        return including_emulation or is_fast

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    assert resolve_dtype("auto", CUDA) == (torch.bfloat16 if is_fast else torch.float32)


def test_other_devices_have_no_fast_bfloat16() -> None:
    assert not has_fast_bfloat16(torch.device("meta"))
