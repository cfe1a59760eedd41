import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from featurize.model.families.llama_mtp_files import open_weights, read_params
from tests.support.loaded_backbones import error_of

REQUIRED: dict[str, Any] = {"dim": 4096, "n_layers": 32, "n_heads": 32}


def write_params(folder: Path, **changes: Any) -> Path:
    (folder / "params.json").write_text(json.dumps(REQUIRED | changes))
    return folder


def params_error(folder: Path) -> str:
    return error_of(lambda: read_params(folder))


def weights_error(folder: Path) -> str:
    return error_of(lambda: open_weights(folder))


def test_absent_params_take_metas_defaults(tmp_path: Path) -> None:
    params = read_params(write_params(tmp_path, vocab_size=-1, n_kv_heads=None))
    assert (params.n_future_tokens, params.rope_theta, params.norm_eps) == (1, 10000.0, 1e-5)
    assert (params.n_kv_heads, params.vocab_size, params.ffn_width) == (None, None, None)


@pytest.mark.parametrize(
    ("dim", "changes", "width"),
    [
        (4096, {"multiple_of": 256}, 11008),  # Llama 2 7B
        (5120, {"multiple_of": 256}, 13824),  # Llama 2 13B
        (8192, {"multiple_of": 4096, "ffn_dim_multiplier": 1.3}, 28672),  # Llama 2 70B
        (8192, {"ffn_dim_multiplier": 1.3}, 28416),
    ],
)
def test_ffn_width_follows_metas_formula(
    tmp_path: Path, dim: int, changes: dict[str, Any], width: int
) -> None:
    assert read_params(write_params(tmp_path, dim=dim, **changes)).ffn_width == width


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"n_layers": "five"}, "n_layers is 'five', expected a positive int"),
        ({"n_layers": 5.0}, "n_layers is 5.0, expected a positive int"),
        ({"n_heads": None}, "n_heads is None, expected a positive int"),
        ({"n_heads": True}, "n_heads is True"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"norm_eps": 0}, "norm_eps is 0, expected a positive float"),
        ({"rope_theta": float("nan")}, "rope_theta is nan"),
        ({"use_scaled_rope": True}, "use_scaled_rope"),
    ],
)
def test_impossible_params_are_refused(
    tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    message = params_error(write_params(tmp_path, **changes))
    assert complaint in message
    assert "params.json" in message


@pytest.mark.parametrize(("text", "complaint"), [("{", "not JSON"), ("[1]", "found list")])
def test_params_that_are_no_json_object_are_refused(
    tmp_path: Path, text: str, complaint: str
) -> None:
    (tmp_path / "params.json").write_text(text)
    assert complaint in params_error(tmp_path)


def test_a_folder_without_params_is_refused(tmp_path: Path) -> None:
    assert "expected a llama-MTP folder" in params_error(tmp_path)


def write_tensors(file: Path) -> None:
    tensors = {
        "layers.0.x": torch.ones(200, 3),
        "layers.11.x": torch.ones(2),
        "norm": torch.ones(1),
    }
    if file.suffix == ".pth":
        torch.save(tensors, file)
    else:
        save_file(tensors, file)


@pytest.mark.parametrize("name", ["consolidated.pth", "consolidated.safetensors"])
def test_tensors_and_layers_are_found_in_either_format(tmp_path: Path, name: str) -> None:
    write_tensors(tmp_path / name)
    weights = open_weights(tmp_path)
    shapes = {key: tuple(tensor.shape) for key, tensor in weights.tensors.items()}
    assert shapes == {"layers.0.x": (200, 3), "layers.11.x": (2,), "norm": (1,)}
    assert (weights.count("layers"), weights.count("extra_heads")) == (12, 0)
    assert weights.origin == tmp_path / name
    torch.testing.assert_close(weights.get("layers.0.x"), torch.ones(200, 3))


class Intruder:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


def test_a_pickled_object_is_refused_and_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "was_here"
    torch.save({"norm": torch.ones(1), "x": Intruder(trace)}, tmp_path / "consolidated.pth")
    message = weights_error(tmp_path)
    assert f"objects that are not tensors ({os.mkdir.__module__}.mkdir)" in message
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"model": {"norm": torch.ones(1)}}, "'model' is a dict, expected a tensor"),
        ([torch.ones(1)], "found list"),
        (torch.ones(1), "found Tensor"),
    ],
)
def test_a_pickle_that_is_no_dict_of_tensors_is_refused(
    tmp_path: Path, content: object, complaint: str
) -> None:
    torch.save(content, tmp_path / "consolidated.pth")
    assert complaint in weights_error(tmp_path)


def test_the_old_pickle_format_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "consolidated.pth"
    torch.save({"norm": torch.ones(1)}, file, _use_new_zipfile_serialization=False)
    assert "not a torch.save file in the zip format" in weights_error(tmp_path)


@pytest.mark.parametrize("name", ["consolidated.pth", "model.safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.5])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str, kept: float) -> None:
    file = tmp_path / name
    write_tensors(file)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * kept)])
    assert str(file) in weights_error(tmp_path)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ((), "found none"),
        (("consolidated.00.pth", "consolidated.01.pth"), "00.pth, consolidated.01.pth"),
        (("consolidated.pth", "a.safetensors"), "found consolidated.pth, a.safetensors"),
    ],
)
def test_there_must_be_one_set_of_weights(
    tmp_path: Path, names: tuple[str, ...], found: str
) -> None:
    for name in names:
        write_tensors(tmp_path / name)
    message = weights_error(tmp_path)
    assert found in message
    assert "keep one set of weights" in message


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a.safetensors")
    save_file({"norm": torch.ones(1)}, tmp_path / "b.safetensors")
    assert "b.safetensors: 'norm' is also in another shard" in weights_error(tmp_path)
