"""Named numbers: complete, with the keys of the JSON, and read back from it."""

import json

import numpy as np
import pytest

from headtrain.evaluation.details import SampleFacts
from headtrain.evaluation.evaluate import evaluate
from headtrain.evaluation.results import Evaluation
from headtrain.metrics.pairs import Pairs
from tests.support.simulated_splits import SETTINGS, simulated

UNITS = {"share", "score", "correlation"}


@pytest.fixture(scope="module")
def evaluation():
    splits = {"train": simulated(0), "valid": simulated(1)}
    valid = splits["valid"]
    minimal = Pairs(np.flatnonzero(valid.is_correct)[:1], np.flatnonzero(~valid.is_correct)[:1])
    return evaluate(
        splits=splits,
        shortcuts={name: {"longer": split.output_tokens} for name, split in splits.items()},
        facts={"valid": SampleFacts(minimal_pairs=minimal, outputs=valid.problem)},
        settings=SETTINGS,
    )


def intervals_in(content, at=""):
    """Yield the path and content of every interval in nested JSON."""
    if isinstance(content, dict) and set(content) == {"estimate", "low", "high"}:
        yield at.removeprefix("."), content
    elif isinstance(content, dict):
        for key, inner in content.items():
            yield from intervals_in(inner, f"{at}.{key}")
    elif isinstance(content, list):
        for place, inner in enumerate(content):
            yield from intervals_in(inner, f"{at}.{place}")


def test_every_interval_of_the_json_is_a_number_under_its_path(evaluation):
    content = json.loads(json.dumps(evaluation.to_dict()))
    written = dict(intervals_in(content))
    numbers = [number for split in evaluation.splits for number in evaluation.numbers(split)]
    assert len(numbers) == len({number.key for number in numbers})
    assert {number.key: vars(number.value) for number in numbers} == written


def test_every_number_has_a_unit_and_a_meaning_in_a_sentence(evaluation):
    for number in evaluation.numbers("valid"):
        quantity = number.quantity
        assert quantity.title, number.key
        assert quantity.unit in UNITS, number.key
        assert quantity.meaning[0].isupper(), number.key
        assert quantity.meaning.endswith("."), number.key


def test_metrics_are_estimates_and_the_bounds_of_accuracies_over_problems(evaluation):
    metrics = evaluation.metrics("valid")
    result, details = evaluation.splits["valid"], evaluation.details["valid"]
    expected = {
        "gap": result.numbers["values.gap"].estimate,
        "probability_gap": result.numbers["decision.probabilities.gap"].estimate,
        "longer/auc": result.judges["longer"]["auc"].estimate,
        "head/accuracy_over_problems_low": result.judges["head"]["accuracy_over_problems"].low,
        "train_minus/accuracy": evaluation.train_minus["valid"]["accuracy_over_problems"].estimate,
        "unexplained/accuracy_over_pairs": details.verdict.margin["accuracy_over_pairs"].estimate,
        "length_correlation": details.length_correlation.estimate,
        "best_of_8": details.best_of_n.pickers["head"][-1].estimate,
    }
    assert {name: metrics[f"eval/valid/{name}"] for name in expected} == expected
    others = {"head", "longer", "train_minus", "unexplained", "length_matched", "minimal_pairs"}
    groups = {name.split("/")[2] for name in metrics if name.count("/") == 3}
    assert groups == others


def test_the_evaluation_is_read_back_from_its_json(evaluation):
    content = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    assert Evaluation.from_dict({"head": "about", **content}) == evaluation


def test_without_train_the_decision_is_null():
    alone = evaluate(splits={"valid": simulated(1)}, shortcuts={}, settings=SETTINGS)
    content = alone.to_dict()
    assert content["splits"]["valid"]["decision"] is None
    assert Evaluation.from_dict(json.loads(json.dumps(content))) == alone


def test_what_is_undefined_is_null_and_not_tracked():
    split = simulated(0, num_problems=1)
    constant = split.with_scores(np.ones(len(split)))
    evaluation = evaluate(splits={"valid": constant}, shortcuts={}, settings=SETTINGS)
    content = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    assert content["splits"]["valid"]["variance"] == dict.fromkeys(
        ("between_problems", "intraclass_correlation")
    )
    accuracy = content["splits"]["valid"]["judges"]["head"]["accuracy_over_pairs"]
    assert accuracy == {"estimate": 0.5, "low": None, "high": None}
    assert "eval/valid/variance_between_problems" not in evaluation.metrics("valid")
    assert Evaluation.from_dict(content) == evaluation
