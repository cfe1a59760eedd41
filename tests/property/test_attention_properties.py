import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featurize.model.attention import merge_attention, shared_prompt_attention
from featurize.model.batch import make_pack
from tests.support.loaded_backbones import CPU
from tests.support.plain_features import make_groups

SIZES = st.integers(1, 9)


@settings(deadline=None)
@given(
    tokens=SIZES,
    heads=SIZES,
    keys=st.tuples(SIZES, SIZES),
    spread=st.floats(0, 30),
    seed=st.integers(0, 2**16),
)
def test_attention_over_two_sets_of_keys_merges_into_one_over_both(
    tokens: int, heads: int, keys: tuple[int, int], spread: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = spread * torch.randn(heads, tokens, sum(keys), generator=generator)
    values = torch.randn(sum(keys), heads, 5, generator=generator)

    def attend(part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = scores[:, :, part]
        mixed = torch.einsum("hqk,khd->qhd", chosen.softmax(dim=2), values[part])
        return mixed, chosen.logsumexp(dim=2)

    first, second = attend(slice(keys[0])), attend(slice(keys[0], None))
    both, _ = attend(slice(None))
    torch.testing.assert_close(merge_attention(*first, *second), both, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(merge_attention(*second, *first), both, rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(
        st.tuples(st.integers(1, 12), st.lists(st.integers(1, 12), min_size=1, max_size=4)),
        min_size=1,
        max_size=4,
    ),
    window=st.one_of(st.none(), st.integers(1, 26)),
    heads=st.sampled_from([(2, 2), (4, 2), (3, 1)]),
)
def test_any_pack_attends_as_its_sequences_do_one_by_one(
    lengths: list[tuple[int, list[int]]], window: int | None, heads: tuple[int, int]
) -> None:
    groups = make_groups(lengths)
    batch = make_pack(groups, CPU)
    layout = batch.layout
    assert layout is not None
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        2 * torch.randn(1, number, batch.num_tokens, 8, generator=generator)
        for number in (heads[0], heads[1], heads[1])
    )
    packed, _ = shared_prompt_attention(
        torch.nn.Module(), query, key, value, None, layout=layout, sliding_window=window
    )
    for group in range(len(groups)):
        prompt = torch.arange(*layout.prompt_bounds[group : group + 2])
        for number in range(*layout.group_bounds[group : group + 2]):
            output = torch.arange(*layout.output_bounds[number : number + 2])
            places = torch.cat([prompt, output])
            steps = torch.arange(len(places))
            distance = steps[:, None] - steps
            mask = (distance >= 0) & (distance < (window or 10**9))
            alone = torch.nn.functional.scaled_dot_product_attention(
                query[:, :, places],
                key[:, :, places],
                value[:, :, places],
                attn_mask=mask,
                enable_gqa=True,
            )
            torch.testing.assert_close(
                packed[:, places], alone.transpose(1, 2), rtol=1e-4, atol=1e-5
            )
