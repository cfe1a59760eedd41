"""Many prompts at once, token ids, messages and threads give the values of single texts."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headtrain.scoring.critic import Critic
from headtrain.scoring.samples import to_statement
from tests.support.scored_projects import ScoredProject
from tests.unit.headtrain.scoring.test_critic import TOLERANCE, near, outputs_of


def groups_of(project: ScoredProject) -> list[tuple[str, list[str]]]:
    names = dict.fromkeys(row["problem_id"] for row in project.rows)
    found = [outputs_of(project, name) for name in names]
    return [(prompt, list(outputs.values())) for prompt, outputs in found]


def count_tokens(critic: Critic, groups: list[tuple[str, list[str]]]) -> int:
    counted: list[int] = []
    samples = [s for prompt, outputs in groups for s in critic.samples.encode(prompt, outputs)]
    critic.judge_samples(samples, counted.append)
    return sum(counted)


def test_many_groups_get_the_values_they_get_one_by_one(
    project: ScoredProject, critic: Critic
) -> None:
    groups = groups_of(project)
    alone = [critic.score(*group) for group in groups]
    assert critic.score_many(groups) == [near(values) for values in alone]
    verdicts = critic.judge_many(groups)
    assert [[v.value for v in found] for found in verdicts] == [near(values) for values in alone]
    assert verdicts[0][0].spread is not None


def test_groups_without_outputs_keep_their_places(critic: Critic) -> None:
    [none, some, last] = critic.score_many([("Add.", []), ("Add.", ["x"]), ("Add.", [])])
    assert (none, len(some), last) == ([], 1, [])
    assert critic.score_many([]) == []


def test_a_prompt_in_several_groups_is_computed_once(
    project: ScoredProject, critic: Critic
) -> None:
    (prompt, outputs), *_ = groups_of(project)
    split = [(prompt, [output]) for output in outputs]
    assert count_tokens(critic, split) == count_tokens(critic, [(prompt, outputs)])


def test_a_bad_output_is_named_with_its_group(critic: Critic) -> None:
    with pytest.raises(ValueError, match=r"groups\[1\].*outputs\[0\].*empty"):
        critic.score_many([("Add.", ["x"]), ("Add.", [""])])


def test_token_ids_get_the_value_of_their_text(project: ScoredProject, critic: Critic) -> None:
    prompt, outputs = groups_of(project)[0]
    samples = critic.samples.encode(prompt, outputs)
    ids = [list(sample.output) for sample in samples]
    expected = critic.score(prompt, outputs)
    assert critic.score(list(samples[0].prompt), ids) == expected
    assert critic.score(prompt, [ids[0], *outputs[1:]]) == expected


def test_token_ids_are_cut_where_texts_are(critic: Critic) -> None:
    long = "x = 1\n" * 400
    [sample] = critic.samples.encode("Add.", [long])
    assert sample.is_truncated
    assert critic.samples.encode("Add.", [[*sample.output, 5, 6]]) == [sample]
    [of_prompt] = critic.samples.encode("Add. " * 400, ["x"])
    assert (
        critic.samples.encode([*of_prompt.prompt], [[*of_prompt.output]])[0].prompt
        == of_prompt.prompt
    )
    assert critic.samples.encode([7] * 5000, [[5]])[0].is_truncated


@pytest.mark.parametrize(
    ("prompt", "outputs", "told"),
    [
        ([1, 320], [[5]], r"'prompt' holds the token id 320.*from 0 to 319"),
        ([1, True], [[5]], "token id true"),
        ("Add.", [[-1]], r"'outputs\[0\]' holds the token id -1"),
        ("Add.", [[]], r"outputs\[0\]"),
        ([], ["x"], "'prompt' is"),
        (5, ["x"], "'prompt' is 5"),
        ([{"role": "assistant", "content": "x"}], ["x"], "single-turn"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    critic: Critic, prompt: Any, outputs: Any, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        critic.score(prompt, outputs)


def test_a_text_beside_a_prompt_of_ids_is_refused(critic: Critic) -> None:
    with pytest.raises(ValueError, match="'input'"):
        critic.score([1, 2], [[5]], input="1 2")
    with pytest.raises(ValueError, match=r"'outputs\[1\]' is a text"):
        critic.score([1, 2], [[5], "x"])


def test_messages_are_the_problem_they_hold(critic: Critic) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Add."}]
    assert to_statement(messages, "", False).instruction == "Be brief.\n\nAdd."
    assert to_statement(messages, "", True).messages == (("system", "Be brief."), ("user", "Add."))
    assert critic.score(messages, ["x"]) == critic.score("Be brief.\n\nAdd.", ["x"])


def test_threads_that_share_a_critic_get_their_own_values(
    project: ScoredProject, critic: Critic
) -> None:
    groups = groups_of(project)
    alone = [critic.score(*group) for group in groups]
    barrier = threading.Barrier(len(groups))

    def score(number: int) -> list[list[float]]:
        barrier.wait()
        return [critic.score(*groups[number]) for _ in range(3)]

    with ThreadPoolExecutor(len(groups)) as pool:
        found = list(pool.map(score, range(len(groups))))
    assert found == [[near(values)] * 3 for values in alone]


@settings(max_examples=15, deadline=None)
@given(
    picked=st.lists(
        st.tuples(st.integers(0, 3), st.lists(st.integers(0, 5), min_size=1, max_size=4)),
        min_size=1,
        max_size=5,
    )
)
def test_company_does_not_change_a_value(
    project: ScoredProject, critic: Critic, picked: list[tuple[int, list[int]]]
) -> None:
    groups = groups_of(project)
    chosen = [(groups[p][0], [groups[p][1][o] for o in outputs]) for p, outputs in picked]
    alone = [value for group in groups for value in critic.score(*group)]
    expected = [value for group in chosen for value in critic.score(*group)]
    found = [value for values in critic.score_many(chosen) for value in values]
    assert found == pytest.approx(expected, rel=0, abs=TOLERANCE * max(map(abs, alone)))
