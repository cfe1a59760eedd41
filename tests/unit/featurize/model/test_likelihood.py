import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from featurize.model import likelihood as likelihood_module
from featurize.model.agreement import choose_forward
from featurize.model.batch import Batch, make_pack, make_padded
from featurize.model.engine import Engine
from featurize.model.forward import FeatureSpec
from featurize.model.likelihood import reduce_likelihood, token_likelihood
from featurize.model.packing import PromptGroup
from featurize.store.samples import LIKELIHOOD_COLUMNS
from tests.support.loaded_backbones import CPU
from tests.support.plain_features import (
    count_rows,
    load_plain,
    load_tiny,
    make_groups,
    plain_features,
)
from tests.support.tiny_models import FAMILIES, write_tiny_model

SPEC = FeatureSpec(layers=(3,), poolings=("mean",), likelihood=True)
GROUPS = make_groups([(5, (1, 12, 3)), (21, (17, 8)), (1, (4,))])
VOCABULARY = 50


@pytest.mark.parametrize("family", FAMILIES)
def test_likelihood_is_that_of_the_models_own_logits(tmp_path: Path, family: str) -> None:
    folder = write_tiny_model(tmp_path / family, family)
    backbone = load_tiny(folder, SPEC)
    expected = plain_features(load_plain(folder), GROUPS, SPEC).likelihood
    forward = choose_forward(backbone, SPEC, GROUPS, torch.float32).forward
    found = Engine(backbone, SPEC, forward, 60).run(GROUPS, count_rows(GROUPS)).likelihood
    assert found is not None
    assert expected is not None
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert expected.std(dim=0).min() > 1e-3


def output_likelihood(
    hidden: Tensor, batch: Batch, to_logits: Callable[[Tensor], Tensor]
) -> Tensor:
    return reduce_likelihood(*token_likelihood(hidden, batch, to_logits), batch)


def table_logits(table: Tensor) -> Tensor:
    return table


def make_hidden(batch: Batch, seed: int = 0) -> Tensor:
    """Hidden states that are logits themselves: [tokens, vocabulary]."""
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(batch.input_ids.numel(), VOCABULARY, generator=generator)


def small_groups() -> list[PromptGroup]:
    return [
        PromptGroup(prompt=(1, 2, 3), outputs=((4,), (5, 6, 7)), rows=(0, 1)),
        PromptGroup(prompt=(8,), outputs=((9, 10),), rows=(2,)),
    ]


def test_each_token_is_predicted_by_the_one_before_it() -> None:
    batch = make_pack(small_groups(), CPU)  # 1 2 3 8 | 4 | 5 6 7 | 9 10
    hidden = make_hidden(batch)
    logprobs = hidden.double().log_softmax(dim=1)
    found = output_likelihood(hidden, batch, table_logits)
    expected = [
        [logprobs[2, 4]],
        [logprobs[2, 5], logprobs[5, 6], logprobs[6, 7]],
        [logprobs[3, 9], logprobs[8, 10]],
    ]
    for row, tokens in zip(found, expected, strict=True):
        values = torch.stack(tokens)
        wanted = torch.stack([values.sum(), values.mean(), values.min()]).float()
        torch.testing.assert_close(row[:3], wanted)


def test_padding_is_neither_predicted_nor_predicts() -> None:
    singles = [
        PromptGroup(prompt=(1, 2), outputs=((3, 4, 5),), rows=(0,)),
        PromptGroup(prompt=(6,), outputs=((7,),), rows=(1,)),
    ]
    batch = make_padded(singles, CPU, length=8)
    hidden = make_hidden(batch)
    found = output_likelihood(hidden, batch, table_logits)
    hidden[[0, 4, 5, 6, 7]] = 1e9  # the prompt's first token, the output's last, padding
    hidden[9:] = 1e9
    torch.testing.assert_close(output_likelihood(hidden, batch, table_logits), found)
    wanted = hidden[8].double().log_softmax(dim=0)[7].float()
    torch.testing.assert_close(found[1, :3], wanted.expand(3))


def test_uniform_logits_have_the_entropy_of_the_vocabulary() -> None:
    batch = make_pack(small_groups(), CPU)
    found = output_likelihood(torch.full((batch.num_tokens, VOCABULARY), 7.0), batch, table_logits)
    entropy = math.log(VOCABULARY)
    rows = [[-entropy * length, -entropy, -entropy, entropy] for length in (1, 3, 2)]
    torch.testing.assert_close(found, torch.tensor(rows))
    assert LIKELIHOOD_COLUMNS == ("logprob_sum", "logprob_mean", "logprob_min", "entropy_mean")


def test_certainty_has_no_entropy_and_no_nan() -> None:
    batch = make_pack(small_groups(), CPU)
    hidden = torch.full((batch.num_tokens, VOCABULARY), -1e4)
    hidden[:, 4] = 1e4
    found = output_likelihood(hidden, batch, table_logits)
    assert found.isfinite().all()
    torch.testing.assert_close(found[0], torch.zeros(4))
    assert found[1, 0] == pytest.approx(-6e4)
    torch.testing.assert_close(found[:, 3], torch.zeros(3))


@pytest.mark.parametrize("chunk", [1, 2, 5, 6, 7, 1000])
def test_the_logits_are_made_in_chunks_that_change_nothing(
    monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    batch = make_pack(small_groups(), CPU)
    hidden = make_hidden(batch)
    whole = output_likelihood(hidden, batch, table_logits)
    sizes: list[int] = []

    def spy(table: Tensor) -> Tensor:
        sizes.append(len(table))
        return table

    monkeypatch.setattr(likelihood_module, "CHUNK_TOKENS", chunk)
    torch.testing.assert_close(output_likelihood(hidden, batch, spy), whole)
    assert sum(sizes) == 6
    assert max(sizes) == min(chunk, 6)
