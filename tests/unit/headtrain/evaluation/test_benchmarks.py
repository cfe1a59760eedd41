"""Metrics of public benchmarks: strict accuracy by subset, and accuracy by style."""

import numpy as np
import pytest

from configs.console import columns_table, console
from headtrain.evaluation.benchmarks import (
    NO_SUBSET,
    SubsetAccuracy,
    SubsetResults,
    measure_styles,
    measure_subsets,
)
from headtrain.evaluation.files import data_name
from headtrain.metrics.pairwise import EvaluationError, ScoredSamples
from headtrain.report.benchmark import SUBSET_COLUMNS, subset_rows


def pairs(*scores: tuple[float, float]) -> ScoredSamples:
    """A problem a pair: the score of its right and of its wrong answer."""
    values = np.array(scores, np.float64).reshape(-1)
    return ScoredSamples(
        scores=values,
        is_correct=np.tile([True, False], len(scores)),
        problem=np.repeat(np.arange(len(scores)), 2),
        output_tokens=np.ones(len(values), np.int64),
    )


def test_a_tie_is_wrong_and_counted() -> None:
    found = measure_subsets(pairs((1, 0), (0, 0), (0, 1), (2, 2)), None)
    assert list(found.subsets) == [NO_SUBSET]
    assert found.all_pairs.accuracy == 0.25
    assert found.all_pairs.num_ties == 2
    assert found.all_pairs.num_pairs == 4


def test_subsets_are_averaged_by_pairs_or_equally() -> None:
    names = np.repeat(np.array(["hep-go", "hep-js", "hep-js", "hep-js"], object), 2)
    found = measure_subsets(pairs((1, 0), (0, 1), (0, 1), (3, 1)), names)
    assert {name: one.accuracy for name, one in found.subsets.items()} == {
        "hep-go": 1.0,
        "hep-js": pytest.approx(1 / 3),
    }
    assert found.all_pairs.accuracy == 0.5
    assert found.mean_over_subsets == pytest.approx(2 / 3)
    assert [row[0] for row in subset_rows(found)] == [
        "hep-go",
        "hep-js",
        "all pairs",
        "mean over subsets",
    ]


def test_a_problem_of_one_label_is_no_pair() -> None:
    scored = ScoredSamples(
        scores=np.zeros(2),
        is_correct=np.array([True, True]),
        problem=np.array([0, 0]),
        output_tokens=np.ones(2, np.int64),
    )
    with pytest.raises(EvaluationError):
        measure_subsets(scored, None)


def styled(right: list[list[float]], wrong: list[list[float]]) -> tuple[ScoredSamples, list[str]]:
    """Scores by prompt and style."""
    scores, labels, problems, names = [], [], [], []
    for problem, (of_right, of_wrong) in enumerate(zip(right, wrong, strict=True)):
        for side, values in (("correct", of_right), ("incorrect", of_wrong)):
            for style, value in enumerate(values):
                scores.append(value)
                labels.append(side == "correct")
                problems.append(problem)
                names.append(f"p{problem}#{side}.{style}")
    return (
        ScoredSamples(
            scores=np.array(scores),
            is_correct=np.array(labels),
            problem=np.array(problems),
            output_tokens=np.ones(len(scores), np.int64),
        ),
        names,
    )


def test_a_judge_of_style_alone_is_right_on_easy_and_wrong_on_hard_pairs() -> None:
    found = measure_styles(*styled([[0, 1, 2], [0, 1, 2]], [[0, 1, 2], [0, 1, 2]]))
    assert found is not None
    assert (found.easy, found.normal, found.hard) == (1.0, 0.0, 0.0)  # in one style they tie
    assert found.average == pytest.approx(1 / 3)
    assert found.num_prompts == 2


def test_cells_are_means_over_prompts_whatever_the_order_of_samples() -> None:
    scored, names = styled([[5, 0, 3], [1, 1, 1]], [[4, 1, 2], [0, 0, 2]])
    # right > wrong, by [right style, wrong style]: 111 000 011, and 110 110 110
    order = np.random.default_rng(0).permutation(len(names))
    mixed = ScoredSamples(
        scores=scored.scores[order],
        is_correct=scored.is_correct[order],
        problem=scored.problem[order],
        output_tokens=scored.output_tokens[order],
    )
    found = measure_styles(mixed, [names[place] for place in order])
    assert found is not None
    assert found.easy == pytest.approx((0.5 + 0.5 + 1.0) / 3)  # cells [1,0], [2,0], [2,1]
    assert found.normal == pytest.approx((1.0 + 0.5 + 0.5) / 3)
    assert found.hard == pytest.approx((1.0 + 0.5 + 0.0) / 3)  # cells [0,1], [0,2], [1,2]


def test_plain_pairs_and_uneven_lists_have_no_styles() -> None:
    assert measure_styles(*styled([[1]], [[0]])) is None
    assert measure_styles(*styled([[1, 2], [1]], [[0, 0], [0]])) is None
    assert measure_styles(*styled([[1, 2]], [[0, 0, 0]])) is None
    scored, _ = styled([[1, 2]], [[0, 0]])
    assert measure_styles(scored, ["a", "b", "c", "d"]) is None


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("pairs/rm-bench.jsonl.gz", "data-rm-bench-abcdef"),
        ("train.jsonl", "data-train-abcdef"),
        ("bench.v2.parquet", "data-bench.v2-abcdef"),
        ("some/*.parquet", "data-file-abcdef"),
        ("s3://bucket/a b/part?.jsonl", "data-part-abcdef"),
    ],
)
def test_reports_are_named_after_the_file(data: str, name: str) -> None:
    assert data_name(data, "abcdef0123") == name


def test_names_of_subsets_are_shown_without_markup_and_control_characters() -> None:
    one = SubsetAccuracy(num_pairs=2, num_ties=0, accuracy=0.5)
    results = SubsetResults(
        subsets={"[python]": one, "[/x]\x1b[2J": one}, all_pairs=one, mean_over_subsets=0.5
    )
    with console().capture() as shown:
        console().print(columns_table("subsets", SUBSET_COLUMNS, subset_rows(results)))
    assert "[python]" in shown.get()
    assert "[/x]" in shown.get()
    assert "\x1b" not in shown.get()
