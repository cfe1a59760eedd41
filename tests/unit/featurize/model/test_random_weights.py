"""A backbone with random weights: a baseline before any training."""

from pathlib import Path
from typing import Any

import pytest
import torch

from featurize.run.job import FeaturizeJob
from featurize.run.plan import plan_featurize
from featurize.settings import (
    BackboneSettings,
    DatasetSettings,
    DistributedSettings,
    FeaturizeSettings,
    RuntimeSettings,
)
from tests.support.llama_mtp_files import LAYERS, load_mtp, make_weights, write_checkpoint
from tests.support.loaded_backbones import load
from tests.support.tiny_models import HIDDEN_SIZE, NUM_LAYERS, write_tiny_llama, write_tiny_model


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("models") / "llama")


def weights(path: Path, **options: Any) -> dict[str, torch.Tensor]:
    return load(path, is_plain=True, **options).decoder.state_dict()


def assert_equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_random_weights_have_the_shapes_of_the_trained_ones_and_other_values(llama: Path) -> None:
    trained, drawn = weights(llama), weights(llama, weights="random")
    assert {n: t.shape for n, t in trained.items()} == {n: t.shape for n, t in drawn.items()}
    matrices = [name for name in trained if trained[name].ndim == 2]
    assert len(matrices) > 7 * NUM_LAYERS
    assert not any(torch.equal(trained[name], drawn[name]) for name in matrices)
    assert all(drawn[name].std() > 0 for name in matrices)
    backbone = load(llama, weights="random")
    assert (backbone.num_layers, backbone.hidden_size) == (NUM_LAYERS, HIDDEN_SIZE)


def test_random_weights_are_the_same_each_time_and_leave_the_generator_alone(llama: Path) -> None:
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = weights(llama, weights="random")
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(6)
    assert_equal(first, weights(llama, weights="random"))


def test_random_weights_do_not_depend_on_what_is_asked_for(llama: Path) -> None:
    whole = weights(llama, weights="random")
    assert_equal(whole, weights(llama, weights="random", with_lm_head=True))
    cut = weights(llama, weights="random", deepest_layer=1)
    assert set(cut) < set(whole)
    assert all(torch.equal(cut[name], whole[name]) for name in cut)


def test_random_weights_need_no_file_of_weights_but_the_right_params(
    llama: Path, tmp_path: Path
) -> None:
    write_tiny_model(tmp_path / "model", "gemma3")
    (tmp_path / "model/model.safetensors").write_bytes(b"damaged")
    assert load(tmp_path / "model", weights="random").num_layers == NUM_LAYERS
    with pytest.raises(ValueError, match=r"params\.dim is 33"):
        load(llama, weights="random", params={"dim": 33})


def test_a_llama_mtp_checkpoint_is_drawn_in_the_shape_it_is_read_in(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "mtp", make_weights())
    outputs: dict[Any, int] = {"next_token": LAYERS, "trunk": LAYERS - 1}
    for output, num_layers in outputs.items():
        sizes = []
        for kind in ("pretrained", "random"):
            drawn = load_mtp(folder, output, weights=kind)
            assert drawn.config.num_hidden_layers == num_layers
            sizes.append({n: t.shape for n, t in drawn.state_dict().items()})
        assert sizes[0] == sizes[1]


def test_random_weights_can_be_neither_quantized_nor_shared(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="weights 'random' contradict"):
        BackboneSettings(name="x", path="x", weights="random", quantization="4bit")
    job = FeaturizeJob(
        backbone=BackboneSettings(name="x", path=str(llama), weights="random"),
        dataset=DatasetSettings(name="data", train="train.jsonl"),
        featurize=FeaturizeSettings(),
        runtime=RuntimeSettings(device="cpu"),
        split="train",
        store_dir=tmp_path / "store",
        cache_dir=tmp_path / "cache",
        distributed=DistributedSettings(shard_backbone=True),
    )
    with pytest.raises(ValueError, match="weights 'random' and a backbone shared"):
        plan_featurize(job)
