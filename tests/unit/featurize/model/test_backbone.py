"""A loaded backbone: blocks, logits, number format, random weights, and models that are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from featurize.model.backbone import Backbone, resolve_layers
from featurize.model.decoder import hidden_of
from featurize.model.families.hf import HuggingFace
from featurize.run.job import FeaturizeJob
from featurize.run.plan import plan_featurize
from featurize.settings import (
    BackboneParams,
    BackboneSettings,
    DatasetSettings,
    DistributedSettings,
    FeaturizeSettings,
    RuntimeSettings,
)
from tests.support.llama_mtp_files import LAYERS, load_mtp, make_weights, write_checkpoint
from tests.support.loaded_backbones import error_of, load
from tests.support.plain_features import load_plain
from tests.support.tiny_models import (
    FAMILIES,
    HIDDEN_SIZE,
    NUM_LAYERS,
    VOCAB_SIZE,
    write_tiny_llama,
    write_tiny_model,
)

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"


EXACT = BackboneParams(
    dim=HIDDEN_SIZE,
    n_layers=NUM_LAYERS,
    n_heads=4,
    n_kv_heads=2,
    n_future_tokens=1,
    intermediate_size=64,
    rope_theta=10000.0,
    vocab_size=VOCAB_SIZE,
)


def test_the_whole_backbone_has_all_its_blocks(llama: Path) -> None:
    backbone = load(llama)
    assert len(backbone.blocks) == backbone.num_layers == NUM_LAYERS
    assert backbone.hidden_size == HIDDEN_SIZE
    assert backbone.lm_head is None
    assert not backbone.decoder.training
    assert not any(parameter.requires_grad for parameter in backbone.decoder.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_above_the_deepest_layer_are_not_loaded(
    folders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    folder = folders(family)
    plain = load_plain(folder)
    made: list[int] = []
    from_pretrained = AutoModel.from_pretrained

    def spy(*args: Any, **options: Any) -> Any:
        loaded = from_pretrained(*args, **options)
        made.append(loaded[0].config.num_hidden_layers)
        return loaded

    monkeypatch.setattr(AutoModel, "from_pretrained", spy)
    backbone = load(folder, deepest_layer=2)
    assert made == [2]
    assert (len(backbone.blocks), backbone.num_layers) == (2, NUM_LAYERS)
    ids = torch.tensor([[5, 9, 7, 8, 6]])
    taken: list[torch.Tensor] = []
    backbone.blocks[1].register_forward_hook(lambda *call: taken.append(hidden_of(call[2])))
    with torch.no_grad():
        backbone.decoder(input_ids=ids, use_cache=False)
        expected = plain(input_ids=ids, output_hidden_states=True).hidden_states[2]
    torch.testing.assert_close(taken[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_have_the_requested_number_format(llama: Path, dtype: torch.dtype) -> None:
    backbone = load(llama, dtype=dtype, with_lm_head=True)
    assert {parameter.dtype for parameter in backbone.decoder.parameters()} == {dtype}
    assert backbone.lm_head is not None
    hidden = torch.randn(5, HIDDEN_SIZE, dtype=dtype)
    assert backbone.logits(hidden).shape == (5, VOCAB_SIZE)
    assert backbone.logits(hidden).dtype == torch.float32


def test_logits_that_are_not_the_models_own_are_refused(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backbone, "logits", lambda self, hidden: self.lm_head(hidden) * 1.1)
    message = error_of(lambda: load(llama, with_lm_head=True))
    assert "LlamaForCausalLM" in message
    assert "set featurize.likelihood to false" in message
    load(llama, with_lm_head=False)


def test_tied_weights_do_not_count_as_missing(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tied", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(folder / WEIGHTS)
    backbone = load(folder, with_lm_head=True)
    assert backbone.lm_head is not None
    embeddings = backbone.decoder.get_input_embeddings()
    torch.testing.assert_close(backbone.lm_head.weight, embeddings.weight)


def test_a_bidirectional_model_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "both", "gemma3", use_bidirectional_attention=True)
    for with_lm_head in (False, True):
        message = error_of(lambda: load(folder, with_lm_head=with_lm_head))  # noqa: B023
        assert "Gemma3TextModel: its tokens attend to later tokens" in message


@pytest.mark.parametrize(
    ("layers", "resolved"),
    [
        ("all", [0, 1, 2, 3]),
        ((-1,), [3]),
        ((0,), [0]),
        ((3, 0, 1), [0, 1, 3]),
        ((-4, -2), [0, 2]),
    ],
)
def test_layers_are_numbered_as_transformers_does(
    layers: tuple[int, ...] | str, resolved: list[int]
) -> None:
    assert resolve_layers(layers, NUM_LAYERS) == resolved


@pytest.mark.parametrize(
    ("layers", "complaint"),
    [((1, 4), "4 is not a layer"), ((1, -5), "-5 is not a layer"), ((3, -1), "twice")],
)
def test_impossible_layers_are_refused(layers: tuple[int, ...], complaint: str) -> None:
    message = error_of(lambda: resolve_layers(layers, NUM_LAYERS))
    assert message.startswith("featurize.layers: ")
    assert complaint in message


@pytest.mark.parametrize("params", [None, BackboneParams(), EXACT])
def test_params_that_match_the_whole_model_are_accepted(
    llama: Path, params: BackboneParams | None
) -> None:
    load(llama, params=params, deepest_layer=1)


@pytest.mark.parametrize(
    ("key", "wrong", "found"),
    [
        ("dim", 64, 32),
        ("n_layers", 32, 3),
        ("n_future_tokens", 4, 1),
        ("n_heads", 8, 4),
        ("n_kv_heads", 4, 2),
        ("intermediate_size", 65, 64),
        ("rope_theta", 500000.0, 10000.0),
        ("vocab_size", 32000, 320),
    ],
)
def test_params_that_contradict_the_model_are_refused(
    llama: Path, key: str, wrong: Any, found: float
) -> None:
    message = error_of(lambda: load(llama, params=BackboneParams(**{key: wrong})))
    assert f"models.policy.params.{key} is {wrong}" in message
    assert f"has {found};" in message
    assert str(llama) in message


def test_a_model_without_a_list_of_blocks_is_refused(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Odd(torch.nn.ModuleList):
        def __len__(self) -> int:
            return 7

    def load_odd(*_args: Any) -> Any:
        model = AutoModel.from_pretrained(llama)
        model.layers = Odd(model.layers)
        return model

    monkeypatch.setattr(HuggingFace, "load_model", load_odd)
    assert "LlamaModel: no list of 3 blocks in it" in error_of(lambda: load(llama))


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


def test_random_weights_cannot_be_shared(llama: Path, tmp_path: Path) -> None:
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
