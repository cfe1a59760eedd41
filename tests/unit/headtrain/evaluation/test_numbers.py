"""Named numbers: complete, with the keys of the JSON, and read back from it."""

import json

import numpy as np
import pytest

from headtrain.evaluation.numbers import HEAD_NUMBERS, JUDGE, LENGTH_CORRELATION, pass_rate
from headtrain.evaluation.results import Evaluation
from headtrain.metrics.pairs import Pairs
from tests.support.simulated_splits import evaluated, simulated

UNITS = {"share", "score", "correlation"}


@pytest.fixture(scope="module")
def evaluation():
    splits = {"train": simulated(0), "valid": simulated(1)}
    valid = splits["valid"]
    minimal = Pairs(np.flatnonzero(valid.is_correct)[:1], np.flatnonzero(~valid.is_correct)[:1])
    return evaluated(
        splits,
        shortcuts={name: {"longer": split.output_tokens} for name, split in splits.items()},
        facts={"valid": dict(minimal_pairs=minimal, outputs=valid.problem)},
    )


def test_every_number_has_a_unit_and_a_meaning_in_a_sentence():
    for quantity in (*JUDGE, *HEAD_NUMBERS, LENGTH_CORRELATION, pass_rate(4, 0)):
        assert quantity.title, quantity.key
        assert quantity.unit in UNITS, quantity.key
        assert quantity.meaning[0].isupper(), quantity.key
        assert quantity.meaning.endswith("."), quantity.key


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
    alone = evaluated({"valid": simulated(1)})
    content = alone.to_dict()
    assert content["splits"]["valid"]["decision"] is None
    assert Evaluation.from_dict(json.loads(json.dumps(content))) == alone


def test_what_is_undefined_is_null_and_not_tracked():
    split = simulated(0, num_problems=1)
    constant = split.with_scores(np.ones(len(split)))
    evaluation = evaluated({"valid": constant})
    content = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    assert content["splits"]["valid"]["variance"] == dict.fromkeys(
        ("between_problems", "intraclass_correlation")
    )
    accuracy = content["splits"]["valid"]["judges"]["head"]["accuracy_over_pairs"]
    assert accuracy == {"estimate": 0.5, "low": None, "high": None}
    assert "eval/valid/variance_between_problems" not in evaluation.metrics("valid")
    assert Evaluation.from_dict(content) == evaluation
