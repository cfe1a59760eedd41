from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from featurize.model.backbone import Backbone
from featurize.model.batch import make_pack, make_padded
from featurize.model.forward import Features, FeatureSpec, forward_batch
from featurize.model.packing import PromptGroup, plan_padded
from featurize.model.pooling import POOLINGS
from tests.support.loaded_backbones import CPU
from tests.support.plain_features import largest_error, load_tiny, make_groups
from tests.support.tiny_models import NUM_LAYERS

EVERY_LAYER = tuple(range(NUM_LAYERS + 1))
SPEC = FeatureSpec(layers=EVERY_LAYER, poolings=tuple(POOLINGS), likelihood=True)
GROUPS = make_groups([(5, (4, 9)), (8, (3,))])


@pytest.fixture
def backbone(llama: Path) -> Iterator[Backbone]:
    backbone = load_tiny(llama, SPEC)
    yield backbone
    assert count_hooks(backbone) == 0


def count_hooks(backbone: Backbone) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for module in backbone.decoder.modules()
    )


def singles_of(groups: list[PromptGroup]) -> list[PromptGroup]:
    return [single for batch in plan_padded(groups, 1) for single in batch]


def test_tensors_are_named_by_pooling_and_layer() -> None:
    spec = FeatureSpec(layers=(0, 12), poolings=("mean", "last"), likelihood=False)
    assert spec.tensor_names == ["mean.0", "last.0", "mean.12", "last.12"]


def test_the_likelihood_needs_every_layer() -> None:
    spec = FeatureSpec(layers=(0, 12), poolings=("mean",), likelihood=False)
    assert spec.deepest(30) == 12
    assert replace(spec, likelihood=True).deepest(30) == 30


def test_padding_may_hold_anything(backbone: Backbone) -> None:
    singles = singles_of(GROUPS)
    batch = make_padded(singles, CPU, length=20)
    plain = forward_batch(backbone, batch, SPEC)
    used = torch.zeros_like(batch.input_ids, dtype=torch.bool)
    for number, single in enumerate(singles):
        used[number, : single.num_tokens] = True
    assert not used.all()
    for filler in (1, 77, 300):
        batch.input_ids.masked_fill_(~used, filler)
        assert largest_error(forward_batch(backbone, batch, SPEC), plain) <= 1e-6
    batch.input_ids.masked_fill_(used, 77)
    assert largest_error(forward_batch(backbone, batch, SPEC), plain) > 0.1


def test_no_hidden_states_are_held(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    plain = backbone.decoder.forward

    def spy(**options: Any) -> Any:
        asked.append(options)
        result = plain(**options)
        assert result.hidden_states is None
        assert result.past_key_values is None
        return result

    monkeypatch.setattr(backbone.decoder, "forward", spy)
    forward_batch(backbone, make_pack(GROUPS, CPU), SPEC)
    assert len(asked) == 1
    assert "output_hidden_states" not in asked[0]


def test_only_what_is_asked_for_is_computed(backbone: Backbone) -> None:
    spec = FeatureSpec(layers=(2,), poolings=("max",), likelihood=False)
    features = forward_batch(backbone, make_pack(GROUPS, CPU), spec)
    assert list(features.tensors) == ["max.2"]
    assert features.likelihood is None


def test_forwards_may_alternate(backbone: Backbone) -> None:
    def run(is_packed: bool) -> Features:
        groups = make_groups([(6, (7,))])
        make = make_pack if is_packed else make_padded
        return forward_batch(backbone, make(groups, CPU), SPEC)

    first = run(True)
    for is_packed in (False, True, True, False):
        assert largest_error(run(is_packed), first) <= 1e-5


def test_hooks_are_gone_after_an_error(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: Any, **_options: Any) -> Any:
        assert count_hooks(backbone) == NUM_LAYERS
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(backbone.blocks[2], "forward", fail)
    with pytest.raises(torch.OutOfMemoryError):
        forward_batch(backbone, make_pack(GROUPS, CPU), SPEC)
    assert count_hooks(backbone) == 0
