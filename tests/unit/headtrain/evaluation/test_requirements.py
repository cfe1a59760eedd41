"""Requirements: conditions on an evaluation's numbers, and findings that speak against a head."""

from dataclasses import replace

import numpy as np
import pytest

from featurize.errors import CriticError
from headtrain.evaluation.findings import (
    ALIASES,
    check_requirements,
    find_biases,
    parse_requirements,
    verdict_sentence,
)
from headtrain.evaluation.numbers import OVER_PAIRS, OVER_PROBLEMS
from headtrain.evaluation.results import HEAD
from headtrain.metrics.bootstrap import Interval
from tests.support.simulated_splits import evaluated, simulated


def judged(**changes):
    """A head on train and valid, with `changes` made to the evaluated samples."""
    splits = {"train": simulated(0, strength=2.0), "valid": simulated(1, strength=2.0)}
    splits["valid"] = replace(splits["valid"], **changes)
    shortcuts = {
        name: {"longer": split.output_tokens * 1.0, "logprob_mean": split.is_correct * 1.0}
        for name, split in splits.items()
    }
    return evaluated(splits, shortcuts=shortcuts)


@pytest.fixture(scope="module")
def evaluation():
    return judged()


def failures(text, evaluation):
    return check_requirements(parse_requirements(text), evaluation, "valid")


def test_conditions_that_hold_are_silent_and_those_that_fail_show_their_number(evaluation):
    accuracy = evaluation.splits["valid"].judges["head"]["accuracy_over_problems"]
    assert failures("accuracy>0.5, accuracy.low > .5,abs(length_rho)<1e0", evaluation) == []
    [failure] = failures("accuracy>0.5, accuracy.high<0.5", evaluation)
    assert "accuracy.high<0.5" in failure
    assert str(accuracy) in failure
    assert failures("margin>=0", evaluation)  # the likelihood here knows the labels
    assert failures("head/accuracy_over_pairs>0.5", evaluation) == []


def test_every_short_name_is_a_number_or_undefined_and_then_it_fails(evaluation):
    known = {number.metric for number in evaluation.numbers("valid")}
    for alias, name in ALIASES.items():
        [failure] = failures(f"{alias}<-99", evaluation)
        assert ("undefined" in failure) == (name not in known), alias
    authors, texts = {"same_author", "author_misleads"}, {"minimal_pairs"}
    distances = {"beyond_90", "beyond_99"}
    assert authors | texts | distances == {
        alias for alias, name in ALIASES.items() if name not in known
    }


@pytest.mark.parametrize("text", ["accuracy>-1e999", "auc<=1e400"])
def test_a_limit_that_every_number_keeps_is_refused(text):
    with pytest.raises(CriticError, match="the limit is not finite"):
        parse_requirements(text)


def test_an_absolute_value_is_compared_as_one(evaluation):
    rho = evaluation.details["valid"].length_correlation.estimate
    assert bool(failures(f"abs(length_rho)<{abs(rho)}", evaluation))
    assert failures(f"abs(length_rho)<={abs(rho)}", evaluation) == []


@pytest.mark.parametrize(
    "text",
    ["", "accuracy", "accuracy=0.5", "accuracy>high", "accurracy>0.5", "abs(accuracy>0.5",
     "accuracy.middle>0", "accuracy>0.5,", "accuracy>nan"],
)  # fmt: skip
def test_what_is_no_condition_is_refused_with_the_text(text):
    with pytest.raises(CriticError) as caught:
        parse_requirements(text)
    assert "--require" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_an_unknown_metric_is_refused_before_anything_is_said_to_hold(evaluation):
    with pytest.raises(CriticError, match="head/accuraccy"):
        failures("accuracy>0.5, head/accuraccy>0.5", evaluation)


def test_a_head_that_only_likes_long_outputs_is_found_out():
    valid = simulated(1, strength=2.0)
    length = judged(scores=valid.output_tokens + np.zeros(len(valid.scores)))
    found = "\n".join(find_biases(length, "valid"))
    assert "longer outputs score higher" in found
    assert "below chance" in found  # where the correct output is the shorter one
    assert "length difference, correct minus incorrect, is below -" in found
    assert "the likeliest passes" in found


def test_a_head_that_knows_the_labels_has_nothing_against_it():
    split = simulated(1, strength=2.0)
    perfect = evaluated(
        {"valid": replace(split, scores=split.is_correct * 1.0)},
        shortcuts={"valid": {"longer": split.output_tokens * 1.0}},
    )
    assert find_biases(perfect, "valid") == []


@pytest.mark.parametrize(
    ("num_problems", "sure"),
    [(1, Interval(estimate=1.0, low=None, high=None)), (5, Interval(estimate=0, low=0, high=0))],
)
def test_a_subset_of_too_few_problems_is_said_to_show_nothing(evaluation, num_problems, sure):
    details = evaluation.details["valid"]
    few = replace(
        details.length_matched,
        num_pairs=30,
        num_problems=num_problems,
        judges={HEAD: {OVER_PAIRS.key: sure, OVER_PROBLEMS.key: sure}},
    )
    details = replace(details, length_matched=few)
    found = find_biases(replace(evaluation, details={"valid": details}), "valid")
    [line] = [line for line in found if "similar length" in line]
    assert line.startswith("not shown to be above chance")
    assert line.endswith(f"{sure} over 30 pairs, of fewer than 6 problems")


def test_a_head_that_is_worse_than_a_shortcut_is_said_to_be_with_the_signed_difference(evaluation):
    margin = evaluation.details["valid"].verdict.margin[OVER_PROBLEMS.key]
    assert margin.high < 0
    said = verdict_sentence(evaluation.splits["valid"], evaluation.details["valid"])
    assert f"worse than the shortcut: the difference is {100 * margin.estimate:.1f}" in said


def test_a_split_of_five_problems_has_no_verdict_however_sure_the_interval(evaluation):
    result = evaluation.splits["valid"]
    few = replace(result, counts=replace(result.counts, num_problems=5))
    said = verdict_sentence(few, evaluation.details["valid"])
    assert said.endswith("(5 here) cannot show whether the difference is chance.")
