"""A benchmark's own numbers: top 1 and Ties by subset, sections, aspects and languages."""

import numpy as np
import pytest

from configs.console import columns_table, console
from featurize.data.pair_rows import BenchmarkRow
from headtrain.evaluation.benchmarks import (
    SECTIONS,
    BenchmarkResults,
    Score,
    ScoredRows,
    measure_scores,
    measure_subsets,
)
from headtrain.metrics.pairwise import ScoredSamples
from headtrain.report.benchmark import SCORE_COLUMNS, score_rows
from headtrain.settings import EvaluationSettings
from tests.support.benchmark_rows import load_reward_bench

Answers = tuple[dict[str, str], list[float], list[float]]
SETTINGS = EvaluationSettings(bootstrap_rounds=50)


def join(*answers: Answers) -> ScoredRows:
    """Rows of their facts, the scores of the correct and those of the incorrect answers."""
    rows, ids, scores, labels = [], [], [], []
    for place, (facts, right, wrong) in enumerate(answers):
        own = [
            f"{place}#{side}.{n}"
            for side, of in (("c", right), ("i", wrong))
            for n in range(len(of))
        ]
        rows.append(
            BenchmarkRow(
                problem_id=str(place),
                id=facts.get("id", str(place)),
                subset=facts.get("subset"),
                aspect=facts.get("aspect"),
                language=facts.get("language"),
                correct=tuple(own[: len(right)]),
                incorrect=tuple(own[len(right) :]),
            )
        )
        ids += own
        scores += [*right, *wrong]
        labels += [True] * len(right) + [False] * len(wrong)
    order = np.random.default_rng(0).permutation(len(ids))  # whatever the order of samples
    scored = ScoredSamples(
        scores=np.array(scores)[order],
        is_correct=np.array(labels)[order],
        problem=np.arange(len(ids)),
        output_tokens=np.ones(len(ids), np.int64),
    )
    return ScoredRows.join(rows, scored, [ids[n] for n in order], SETTINGS, [0])


def found(*answers: Answers) -> dict[tuple[str, str, str], Score]:
    scores = measure_scores(join(*answers))
    return {(score.quantity, score.by, score.group): score for score in scores}


RANKED: list[Answers] = [
    ({"subset": "Math"}, [2], [1, 0, 0]),
    ({"subset": "Math"}, [1], [1, 1, 1]),
    ({"subset": "Focus"}, [0], [1, 0, 0]),
    ({"subset": "Ties", "id": "ref:1"}, [5], [1]),
    ({"subset": "Ties", "id": "tied:1"}, [5, 5], [1, 2]),
]


def test_top_1_by_subset_leaves_ties_to_their_own_score() -> None:
    scores = found(*RANKED)
    assert scores["top_1", "", ""].value.estimate == pytest.approx((1 + 1 / 4 + 0) / 3)
    assert scores["top_1", "", ""].num_rows == 3
    assert scores["top_1", "subset", "Math"].value.estimate == pytest.approx(5 / 8)
    assert scores["top_1", "subset", "Focus"].value.estimate == 0
    assert ("top_1", "subset", "Ties") not in scores
    assert scores["ties", "subset", "Ties"].value.estimate == pytest.approx(1.01)
    mean = scores["score", "", ""].value.estimate
    assert mean == pytest.approx((5 / 8 + 0 + 1.01) / 3)


def test_pairs_have_no_top_1() -> None:
    assert found(({"subset": "easy"}, [1], [0]), ({"subset": "hard"}, [1], [0])) == {}


def test_the_accuracy_of_an_aspect_in_a_language_counts_a_tie_as_wrong() -> None:
    scores = found(
        ({"aspect": "Security", "language": "C++"}, [1], [0]),
        ({"aspect": "Security", "language": "C"}, [0], [0]),
        ({"aspect": "Security", "language": "C"}, [1], [0]),
        ({"aspect": "Runtime", "language": "C"}, [0], [1]),
        ({"language": "C"}, [0], [1]),
    )
    values = {
        (by, group): (score.value.estimate, score.num_rows)
        for (_, by, group), score in scores.items()
    }
    assert values == {
        ("aspect", "Runtime"): (0, 1),
        ("aspect", "Security"): (pytest.approx(2 / 3), 3),
        ("language", "C"): (pytest.approx(1 / 4), 4),
        ("language", "C++"): (1, 1),
        ("aspect and language", "Runtime, C"): (0, 1),
        ("aspect and language", "Security, C"): (0.5, 2),
        ("aspect and language", "Security, C++"): (1, 1),
    }
    security = scores["accuracy", "aspect", "Security"].value
    assert security.low is not None
    assert security.high is not None
    assert security.low <= security.estimate <= security.high


def test_sections_weigh_maths_as_much_as_code() -> None:
    answers: list[Answers] = [
        ({"subset": "math-prm"}, [1], [0]),
        ({"subset": "hep-go"}, [0], [1]),
        ({"subset": "hep-js"}, [1], [0]),
        ({"subset": "another"}, [1], [0]),
    ]
    scores = found(*answers)
    section = scores["section", "section", "Reasoning"]
    assert section.value.estimate == pytest.approx((984 + 164) / (984 + 2 * 164))
    assert section.num_rows == 3
    assert [by for _, by, _ in scores] == ["section"]


def test_sections_are_those_of_reward_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    constants = load_reward_bench(monkeypatch, "constants")
    theirs = load_reward_bench(monkeypatch)
    assert {name: list(weights) for name, weights in SECTIONS.items()} == constants.SUBSET_MAPPING
    names = [name for weights in SECTIONS.values() for name in weights]
    rows = [
        ({"subset": name}, [1.0], [float(n % (place + 1))])
        for place, name in enumerate(names)
        for n in range(5)
    ]
    found = measure_scores(join(*rows))
    accuracy = {
        name: sum(wrong[0] < 1 for facts, _, wrong in rows if facts["subset"] == name) / 5
        for name in names
    }
    expected = theirs.calculate_scores_per_section(
        constants.EXAMPLE_COUNTS, constants.SUBSET_MAPPING, accuracy
    )
    assert {score.group: score.value.estimate for score in found} == pytest.approx(expected)


def test_names_with_a_tracking_server_tell_c_from_its_kin() -> None:
    rows: list[Answers] = [({"language": name}, [1], [0]) for name in ("C", "C++", "C#", "[x]")]
    results = BenchmarkResults(
        subsets=measure_subsets(join(*rows).scored, None),
        styles=None,
        scores=measure_scores(join(*rows)),
    )
    assert [number.metric for number in results.numbers] == [
        f"benchmark/accuracy/language/{name}" for name in ("C", "Csharp", "Cpp", "x")
    ]


def test_the_table_fits_in_80_columns() -> None:
    answers = [
        *RANKED,
        ({"aspect": "Readability_Maintainability", "language": "JavaScript"}, [1], [0]),
    ]
    results = BenchmarkResults(
        subsets=measure_subsets(join(*answers).scored, None),
        styles=None,
        scores=measure_scores(join(*answers)),
    )
    for detailed in (False, True):
        table = columns_table("numbers", SCORE_COLUMNS, score_rows(results, detailed=detailed))
        assert console().measure(table).maximum <= 80
    assert len(score_rows(results, detailed=True)) == len(results.scores)


def test_samples_of_no_row_are_left_out() -> None:
    scored = ScoredSamples(
        scores=np.array([1.0, 0.0]),
        is_correct=np.array([True, False]),
        problem=np.array([0, 0]),
        output_tokens=np.ones(2, np.int64),
    )
    rows = ScoredRows.join([], scored, ["a", "b"], SETTINGS, [0])
    assert measure_scores(rows) == ()
