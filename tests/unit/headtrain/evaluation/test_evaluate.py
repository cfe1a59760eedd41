"""The numbers of an evaluation, judge by judge and split by split."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, f1_score, roc_auc_score

from headtrain.evaluation.findings import find_biases
from headtrain.evaluation.results import Evaluation
from headtrain.metrics.calibration import Calibration, Decision
from headtrain.metrics.pairwise import EvaluationError, pairwise_accuracy, pairwise_counts
from headtrain.report.tables import detail_lines, value_rows
from headtrain.settings import EvaluationSettings
from tests.support.simulated_splits import evaluated, joined, simulated


def test_every_judge_gets_the_accuracies_of_its_scores(splits, shortcuts):
    evaluation = evaluated(splits, shortcuts=shortcuts)
    for name, split in splits.items():
        judges = evaluation.splits[name].judges
        assert list(judges) == ["head", "longer"]
        scores = {"head": split.scores, "longer": shortcuts[name]["longer"]}
        for judge, result in judges.items():
            expected = pairwise_accuracy(pairwise_counts(split.with_scores(scores[judge])))
            assert result["accuracy_over_pairs"].estimate == pytest.approx(expected.over_pairs)
            assert result["accuracy_over_problems"].estimate == pytest.approx(
                expected.over_problems
            )
            area = roc_auc_score(split.is_correct, scores[judge])
            assert result["auc"].estimate == pytest.approx(area)
            for interval in (
                result["accuracy_over_pairs"],
                result["accuracy_over_problems"],
                result["auc"],
            ):
                assert interval.low < interval.estimate < interval.high


def test_values_and_probabilities_are_those_of_the_head(splits):
    evaluation = evaluated(splits)
    decision = Decision.fit(splits["train"])
    assert evaluation.decision == decision
    for name, split in splits.items():
        numbers, labels = evaluation.splits[name].numbers, split.is_correct
        probability = decision.calibration.probability(split.scores)
        expected = {
            "decision.f1": f1_score(labels, split.scores >= decision.f1_threshold),
            "decision.f1_of_calling_all_correct": f1_score(labels, labels | True),
            "decision.brier": brier_score_loss(labels, probability),
        }
        for part, scores in (("values", split.scores), ("decision.probabilities", probability)):
            correct, incorrect = scores[labels].mean(), scores[~labels].mean()
            expected |= {
                f"{part}.mean_correct": correct,
                f"{part}.mean_incorrect": incorrect,
                f"{part}.gap": correct - incorrect,
            }
        for key, estimate in expected.items():
            assert numbers[key].estimate == pytest.approx(estimate), key
        for key, interval in numbers.items():
            assert interval.low < interval.estimate < interval.high, key


def test_train_minus_valid_is_the_difference_of_the_estimates(splits):
    evaluation = evaluated(splits)
    assert list(evaluation.train_minus) == ["valid"]
    difference = evaluation.train_minus["valid"]
    train, valid = evaluation.splits["train"], evaluation.splits["valid"]
    expected = {
        "gap": train.numbers["values.gap"].estimate - valid.numbers["values.gap"].estimate,
        "probability_gap": train.numbers["decision.probabilities.gap"].estimate
        - valid.numbers["decision.probabilities.gap"].estimate,
        "accuracy_over_problems": train.judges["head"]["accuracy_over_problems"].estimate
        - valid.judges["head"]["accuracy_over_problems"].estimate,
    }
    for name, estimate in expected.items():
        interval = difference[name]
        assert interval.estimate == pytest.approx(estimate)
        assert 0 < interval.low < interval.estimate < interval.high  # train was made easier


def test_a_split_is_not_compared_with_a_copy_of_itself_as_if_they_were_paired():
    split = simulated(0)
    evaluation = evaluated({"train": split, "valid": split})
    difference = evaluation.train_minus["valid"]["gap"]
    assert difference.estimate == 0.0
    assert difference.low < 0 < difference.high


def test_counts_account_for_every_sample():
    split = joined(simulated(0, num_problems=3), simulated(1, num_problems=2))
    labels = split.is_correct.copy()
    labels[split.problem == 1] = True  # eight samples without a partner
    split = replace(split, is_correct=labels)
    counts = evaluated({"valid": split}).splits["valid"].counts
    assert (counts.num_samples, counts.num_samples_left_out) == (40, 8)
    assert (counts.num_problems, counts.num_problems_left_out) == (4, 1)
    assert counts.num_pairs == pairwise_counts(split).num_pairs.sum()


def test_without_train_nothing_is_calibrated(splits):
    evaluation = evaluated({"valid": splits["valid"]})
    assert not any(key.startswith("decision") for key in evaluation.splits["valid"].numbers)
    assert evaluation.decision is None
    assert evaluation.train_minus == {}


def test_a_given_decision_is_used_even_beside_train(splits):
    decision = Decision(calibration=Calibration(slope=0.0, intercept=0.0), f1_threshold=-1e9)
    evaluation = evaluated(splits, decision=decision)
    numbers = evaluation.splits["valid"].numbers
    assert evaluation.decision == decision
    assert numbers["decision.brier"].estimate == 0.25
    assert numbers["decision.f1"] == numbers["decision.f1_of_calling_all_correct"]


def test_intervals_of_a_split_do_not_depend_on_the_other_splits(splits):
    both = evaluated(splits)
    alone = evaluated({"valid": splits["valid"]}, decision=both.decision)
    assert alone.splits["valid"] == both.splits["valid"]


def test_equal_seeds_give_equal_evaluations_and_others_do_not(splits, shortcuts):
    first, again, other = (evaluated(splits, shortcuts=shortcuts, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first.splits["valid"].judges != other.splits["valid"].judges


def test_a_lower_confidence_gives_a_narrower_interval(splits):
    widths = []
    for confidence in (0.5, 0.95):
        settings = EvaluationSettings(bootstrap_rounds=200, confidence=confidence)
        evaluation = evaluated(splits, shortcuts={}, settings=settings)
        interval = evaluation.splits["valid"].judges["head"]["accuracy_over_pairs"]
        widths.append(interval.high - interval.low)
        assert evaluation.confidence == confidence
    assert widths[0] < 0.6 * widths[1]


def test_a_split_without_pairs_is_refused_by_name(splits):
    lonely = replace(splits["valid"], problem=np.arange(len(splits["valid"])))
    with pytest.raises(EvaluationError, match=r"split 'valid': .*200 problems"):
        evaluated(splits | {"valid": lonely})


def test_a_train_split_with_one_label_is_refused_by_name(splits):
    train = replace(splits["train"], is_correct=np.ones(200, dtype=bool))
    with pytest.raises(EvaluationError, match="split 'train': 200 of 200 samples"):
        evaluated(splits | {"train": train})


def test_bad_scores_of_a_shortcut_are_refused_with_its_name(splits):
    scores = np.zeros(200)
    scores[7] = np.nan
    with pytest.raises(EvaluationError, match=r"shortcut 'logprob_sum': .*sample 7"):
        evaluated(splits, shortcuts={"valid": {"logprob_sum": scores}})


def test_a_shortcut_cannot_take_the_place_of_the_head(splits):
    with pytest.raises(EvaluationError, match="cannot be called 'head'"):
        evaluated(splits, shortcuts={"valid": {"head": np.zeros(200)}})


def test_distances_are_numbers_of_their_split_alone_and_warn_of_unlike_outputs(splits):
    num_samples = len(splits["valid"])
    near, far = np.linspace(0, 1, num_samples), np.linspace(0.8, 1, num_samples)
    for distances, is_known in ((near, True), (far, False)):
        found = evaluated(splits, facts={"valid": {"distances": distances}})
        numbers = found.splits["valid"].numbers
        assert numbers["distance.mean"].estimate == pytest.approx(distances.mean())
        assert numbers["distance.beyond_90"].estimate == pytest.approx((distances > 0.9).mean())
        assert found.metrics("valid")["eval/valid/distance_beyond_99"] == (distances > 0.99).mean()
        warnings = [
            text for text in find_biases(found, "valid") if "not trained on outputs" in text
        ]
        assert len(warnings) == (0 if is_known else 1)
        rows = {row.name: row.splits for row in value_rows(found, "valid")}
        assert rows["distance to train"][0] is None
        assert rows["distance to train"][1] == numbers["distance.mean"]
        assert "not kept" not in " ".join(detail_lines(found, "valid"))
        content = json.loads(json.dumps(found.to_dict()))
        assert Evaluation.from_dict(content) == found
        assert "distance" not in content["splits"]["train"]


def test_without_distances_nothing_is_said_of_them_but_in_the_details(splits):
    found = evaluated(splits)
    assert "distance" not in json.dumps(found.to_dict()).replace("length_difference", "")
    assert any("train-head --distance" in line for line in detail_lines(found, "valid"))
