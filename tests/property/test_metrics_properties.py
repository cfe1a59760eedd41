"""What must hold for the metrics whatever the scores and labels are."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from headtrain.metrics.calibration import best_f1_threshold
from headtrain.metrics.pairs import list_pairs, tally_pairs
from headtrain.metrics.pairwise import ScoredSamples, pairwise_accuracy, pairwise_counts
from headtrain.metrics.values import auc, f1

SAMPLE = st.tuples(st.integers(-5, 5) | st.integers(-1000, 1000), st.booleans(), st.integers(-3, 3))


@st.composite
def samples_with_pairs(draw):
    """Draw up to forty samples, tied scores likely, with a pair in at least one problem."""
    rows = draw(st.lists(SAMPLE, min_size=2, max_size=40))
    labels = {}
    for _, is_correct, problem in rows:
        labels.setdefault(problem, set()).add(is_correct)
    assume(any(len(seen) == 2 for seen in labels.values()))
    scores, is_correct, problem = zip(*rows, strict=True)
    return ScoredSamples(
        scores=np.array(scores, dtype=np.float64),
        is_correct=np.array(is_correct),
        problem=np.array(problem),
        output_tokens=np.zeros(len(rows), dtype=np.int64),
    )


def accuracy(samples):
    return pairwise_accuracy(pairwise_counts(samples))


def f1_of(samples, threshold):
    return f1(samples, samples.scores >= threshold).value


@given(samples_with_pairs())
def test_an_increasing_transform_of_the_scores_changes_nothing(samples):
    transformed = samples.with_scores(np.arctan(samples.scores) * 3 - 100)
    assert accuracy(transformed) == accuracy(samples)
    assert auc(transformed).value == auc(samples).value


@given(samples_with_pairs())
def test_negated_scores_have_the_opposite_accuracy(samples):
    negated = samples.with_scores(-samples.scores)
    assert sum(pairwise_counts(samples).wins + pairwise_counts(negated).wins) == sum(
        pairwise_counts(samples).num_pairs
    )
    for ours, theirs in zip(accuracy(samples), accuracy(negated), strict=True):
        assert ours + theirs == pytest.approx(1, abs=1e-12)


@given(samples_with_pairs(), st.floats(-1e300, 1e300))
def test_constant_scores_are_exactly_chance(samples, score):
    constant = samples.with_scores(np.full(len(samples), score))
    assert accuracy(constant) == (0.5, 0.5)
    assert auc(constant).value == pytest.approx(0.5, abs=1e-12)


@given(samples_with_pairs())
def test_the_labels_as_scores_win_every_pair(samples):
    perfect = samples.with_scores(samples.is_correct.astype(float))
    assert accuracy(perfect) == (1.0, 1.0)
    assert f1_of(perfect, best_f1_threshold(perfect.scores, samples.is_correct)) == 1.0


@given(samples_with_pairs())
def test_every_sample_of_a_kept_problem_is_counted(samples):
    counts = pairwise_counts(samples)
    kept = np.isin(samples.problem, counts.problem)
    assert counts.num_correct.sum() == (kept & samples.is_correct).sum()
    assert counts.num_incorrect.sum() == (kept & ~samples.is_correct).sum()
    assert (counts.num_pairs == counts.num_correct * counts.num_incorrect).all()
    assert ((counts.wins >= 0) & (counts.wins <= counts.num_pairs)).all()


@given(samples_with_pairs())
def test_no_threshold_beats_the_best_f1(samples):
    best = f1_of(samples, best_f1_threshold(samples.scores, samples.is_correct))
    for threshold in samples.scores:
        assert f1_of(samples, threshold) <= best + 1e-12


@given(samples_with_pairs(), st.integers(1, 20))
def test_ranks_and_listed_pairs_agree(samples, at_once):
    counts = pairwise_counts(samples)
    listed = tally_pairs({"head": samples}, list_pairs(samples, at_once))["head"]
    has_pairs = listed.num_pairs > 0
    assert listed.wins[has_pairs].tolist() == counts.wins.tolist()
    assert listed.num_pairs[has_pairs].tolist() == counts.num_pairs.tolist()
