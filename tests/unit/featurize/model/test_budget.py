"""The token budget: what is asked for, else by device and size of the backbone."""

import pytest
import torch

from featurize.model.device import choose_token_budget
from tests.support.loaded_backbones import CPU

CUDA = torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("num_parameters", "tokens"),
    [
        (135_000_000, 65_536),
        (499_999_999, 65_536),
        (500_000_000, 32_768),
        (1_100_000_000, 32_768),
        (3_000_000_000, 16_384),
        (7_000_000_000, 16_384),
        (None, 16_384),
    ],
)
def test_a_smaller_backbone_gets_more_tokens_on_a_gpu(
    num_parameters: int | None, tokens: int
) -> None:
    assert choose_token_budget(None, CUDA, num_parameters, 2048).tokens == tokens
    assert choose_token_budget(None, CPU, num_parameters, 2048).tokens == 8192


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_the_longest_sample_fits_whatever_is_chosen(device: torch.device) -> None:
    assert choose_token_budget(None, device, 10**9, 100_000).tokens == 100_000


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_what_is_asked_for_is_taken(device: torch.device) -> None:
    found = choose_token_budget(700, device, 10**9, 2048)
    assert (found.tokens, str(found)) == (700, "700 tokens (featurize.token_budget)")


def test_the_plan_says_where_the_number_comes_from() -> None:
    found = choose_token_budget(None, CUDA, 7_200_000_000, 2048)
    assert str(found) == "16,384 tokens (chosen for 7.2B parameters on cuda)"
    assert str(choose_token_budget(None, CPU, None, 2048)) == "8,192 tokens (chosen for cpu)"
