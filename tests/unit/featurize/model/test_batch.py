from collections.abc import Callable

import pytest
import torch

from featurize.model.batch import Batch, make_pack, make_padded
from featurize.model.packing import PromptGroup, plan_padded
from tests.support.loaded_backbones import CPU

FIRST = PromptGroup(prompt=(11, 12, 13), outputs=((21,), (22, 23)), rows=(4, 0))
SECOND = PromptGroup(prompt=(14,), outputs=((24, 25, 26),), rows=(2,))


def outputs_of(batch: Batch) -> dict[int, list[int]]:
    """Ids of the output at each feature row, read back through the flat positions."""
    flat = batch.input_ids.flatten()
    return {
        int(row): flat[start : start + length].tolist()
        for row, start, length in zip(batch.rows, batch.starts, batch.lengths, strict=True)
    }


def test_a_pack_has_all_prompts_then_the_outputs_by_group() -> None:
    batch = make_pack([FIRST, SECOND], CPU)
    assert batch.input_ids.tolist() == [[11, 12, 13, 14, 21, 22, 23, 24, 25, 26]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 3, 3, 4, 1, 2, 3]]
    assert batch.num_tokens == 10


def test_a_pack_knows_where_its_outputs_are_and_what_predicts_them() -> None:
    batch = make_pack([FIRST, SECOND], CPU)
    assert outputs_of(batch) == {4: [21], 0: [22, 23], 2: [24, 25, 26]}
    assert batch.before.tolist() == [2, 2, 3]  # 13, 13 and 14
    assert batch.input_ids.flatten()[batch.outputs].tolist() == [21, 22, 23, 24, 25, 26]
    assert batch.ends.tolist() == batch.asked.tolist() == [4, 6, 9]
    assert isinstance(batch.outputs, slice)  # no copy of the states
    assert batch.predictors.tolist() == [2, 2, 5, 3, 7, 8]


def test_the_layout_of_a_pack_is_its_bounds() -> None:
    layout = make_pack([FIRST, SECOND], CPU).layout
    assert layout is not None
    assert layout.prompt_bounds == (0, 3, 4)
    assert layout.output_bounds == (4, 5, 7, 10)
    assert layout.group_bounds == (0, 2, 3)
    assert layout.prompt_starts.tolist() == [0, 3, 4]
    assert layout.sequence_starts.tolist() == [0, 3, 4, 5, 7, 10]
    assert layout.group_starts.tolist() == [0, 3, 6]
    starts = (layout.prompt_starts, layout.sequence_starts, layout.group_starts)
    assert {start.dtype for start in starts} == {torch.int32}
    assert (layout.longest_prompt, layout.longest_output, layout.longest_group) == (3, 3, 3)


def test_padded_sequences_are_rows_of_the_longest_length() -> None:
    short = PromptGroup(prompt=(11, 12), outputs=((21,),), rows=(7,))
    batch = make_padded([SECOND, short], CPU)
    assert batch.input_ids.tolist() == [[14, 24, 25, 26], [11, 12, 21, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3]] * 2
    assert outputs_of(batch) == {2: [24, 25, 26], 7: [21]}
    assert batch.before.tolist() == [0, 5]  # 14, and 12 in the second row
    assert batch.input_ids.flatten()[batch.outputs].tolist() == [24, 25, 26, 21]
    assert batch.ends.tolist() == batch.asked.tolist() == [3, 6]
    assert batch.predictors.tolist() == [0, 1, 2, 5]
    assert batch.layout is None
    assert batch.num_tokens == 8


def test_padding_may_be_to_a_length() -> None:
    batch = make_padded([SECOND], CPU, length=6)
    assert batch.input_ids.tolist() == [[14, 24, 25, 26, 0, 0]]
    assert outputs_of(batch) == {2: [24, 25, 26]}
    assert batch.num_tokens == 6


@pytest.mark.parametrize("make", [make_pack, make_padded])
def test_what_follows_an_output_is_no_part_of_it(make: Callable[..., Batch]) -> None:
    outputs = ((21, 22, 91, 81, 82), (23, 91, 81, 82))
    group = PromptGroup(prompt=(11, 12), outputs=outputs, rows=(0, 1), num_end=1, num_question=2)
    groups = [group] if make is make_pack else plan_padded([group], 100)[0]
    batch = make(groups, CPU)
    flat = batch.input_ids.flatten()
    assert outputs_of(batch) == {0: [21, 22], 1: [23]}
    assert flat[batch.outputs].tolist() == [21, 22, 23]
    assert flat[batch.predictors].tolist() == [12, 21, 12]
    assert flat[batch.before].tolist() == [12, 12]
    assert flat[batch.ends].tolist() == [91, 91]
    assert flat[batch.asked].tolist() == [82, 82]


def test_ids_and_places_are_64_bit_integers() -> None:
    for batch in (make_pack([FIRST, SECOND], CPU), make_padded([SECOND], CPU)):
        tensors = (batch.input_ids, batch.position_ids, batch.rows, batch.starts, batch.before)
        assert {tensor.dtype for tensor in (*tensors, batch.lengths)} == {torch.int64}
