"""Compares a backbone shared by ranks with the same one whole, in tests that start the ranks."""

import json
from pathlib import Path

import torch
from torch import Tensor

from featurize.model import attention
from featurize.model.backbone import Backbone, load_backbone
from featurize.model.batch import make_pack
from featurize.model.forward import FeatureSpec, forward_batch
from featurize.model.packing import PromptGroup
from featurize.model.sharing import WHOLE, Sharing
from featurize.model.source import find_backbone
from featurize.run.ranks import RankGroup, Ranks
from featurize.settings import BackboneSettings
from tests.support.loaded_backbones import CPU

OUTPUTS = ((3, 4, 5), tuple(range(20, 40)))


def compare(cases: list[tuple[str, str, list[int], bool]], result: str) -> None:
    """Write how far features of a shared backbone are from those of the whole one, and its share.

    Args:
        cases: model folder, kind of sharing, layers, whether the likelihood is taken.
        result: file of a JSON list: [largest relative error, this rank's share of the weights].
    """
    attention.register()
    ranks = Ranks()
    found = []
    group = RankGroup(ranks, Sharing(kind="fsdp", size=ranks.world_size))
    group.connect(CPU)
    for folder, kind, layers, likelihood in cases:
        spec = FeatureSpec(layers=tuple(layers), poolings=("mean", "last"), likelihood=likelihood)
        expected, all_weights = run(Path(folder), WHOLE, spec)
        sharing = Sharing(kind=kind, size=ranks.world_size)
        got, weights = run(Path(folder), sharing, spec)
        errors = [
            float(((got[name] - expected[name]).norm(dim=1) / expected[name].norm(dim=1)).max())
            for name in expected
        ]
        found.append([max(errors), weights / all_weights])
    group.disconnect()
    Path(result).with_suffix(f".{ranks.rank}").write_text(json.dumps(found))


def run(folder: Path, sharing: Sharing, spec: FeatureSpec) -> tuple[dict[str, Tensor], int]:
    """Compute features of two prompts twice, and count the weights this rank held before."""
    settings = BackboneSettings(name="tiny", path=str(folder))
    source = find_backbone(settings, folder, torch.float32)
    backbone = load_backbone(
        source,
        settings,
        device=CPU,
        dtype=torch.float32,
        deepest_layer=spec.deepest(3),
        with_lm_head=spec.likelihood,
        sharing=sharing,
        is_plain=True,  # so that the weights can be counted
    )
    weights = count_weights(backbone)
    groups = [
        PromptGroup(prompt=(2, 9, 7, 8), outputs=OUTPUTS, rows=(0, 1)),
        PromptGroup(prompt=tuple(range(30, 50)), outputs=OUTPUTS[:1], rows=(2,)),
    ]
    for _ in range(2):  # weights gathered by the first pass must not leak into the second
        features = forward_batch(backbone, make_pack(groups, CPU), spec)
    tensors = dict(features.tensors)
    if features.likelihood is not None:
        tensors["likelihood"] = features.likelihood
    return tensors, weights


def count_weights(backbone: Backbone) -> int:
    """Count the weights of the blocks that this rank holds."""
    parameters = [parameter for block in backbone.blocks for parameter in block.parameters()]
    return sum(getattr(p, "_local_tensor", p).numel() for p in parameters)
