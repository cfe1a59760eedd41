"""Details of a split: breakdowns, controls, the verdict, best of n."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from headtrain.evaluation.details import prompt_only_scores, shuffled_tally
from headtrain.evaluation.shortcuts import shortcut_scores
from headtrain.metrics.pairs import Pairs
from headtrain.metrics.pairwise import pairwise_accuracy, pairwise_counts
from tests.support.simulated_splits import evaluated, simulated


def test_the_evaluated_split_has_details_and_train_does_not(splits, shortcuts):
    both = evaluated(splits, shortcuts=shortcuts)
    assert list(both.details) == ["valid"]
    train = {"train": splits["train"]}
    assert list(evaluated(train).details) == ["train"]


def test_breakdowns_add_up_to_the_whole(splits, shortcuts):
    valid = splits["valid"]
    difficulty = np.array([("easy", "hard", None)[code % 3] for code in valid.problem], object)
    evaluation = evaluated(
        splits,
        shortcuts=shortcuts,
        facts={"valid": dict(attributes={"difficulty": difficulty})},
    )
    counts = evaluation.splits["valid"].counts
    whole = evaluation.splits["valid"].judges["head"]["accuracy_over_pairs"].estimate
    details = evaluation.details["valid"]
    names = {name: [part.name for part in parts] for name, parts in details.breakdowns.items()}
    assert names["difficulty"] == ["easy", "hard", "unknown"]
    assert names["candidates"] == ["8"]
    assert len(names["length_difference"]) == 6
    for parts in details.breakdowns.values():
        assert sum(part.num_pairs for part in parts) == counts.num_pairs
        won = [p.judges["head"]["accuracy_over_pairs"].estimate * p.num_pairs for p in parts]
        assert sum(won) / counts.num_pairs == pytest.approx(whole)
    for part, remainder in zip(details.breakdowns["difficulty"], range(3), strict=True):
        kept = valid.problem % 3 == remainder
        columns = ("scores", "is_correct", "problem", "output_tokens")
        counted = pairwise_counts(
            replace(valid, **{name: getattr(valid, name)[kept] for name in columns})
        )
        over_problems = part.judges["head"]["accuracy_over_problems"]
        assert over_problems.estimate == pytest.approx(pairwise_accuracy(counted).over_problems)
        assert over_problems.low < over_problems.estimate < over_problems.high
        assert set(part.judges) == {"head", "longer"}


def test_length_matched_pairs_leave_length_nothing_to_say():
    valid = simulated(1, num_problems=60, strength=0.0)
    # scores that are the length and nothing else, which goes with being correct
    lengths = 100 + 30 * valid.is_correct + valid.output_tokens % 50
    valid = replace(valid, output_tokens=lengths, scores=lengths * 1.0)
    evaluation = evaluated({"valid": valid}, shortcuts={"valid": {"longer": lengths}})
    details, judges = evaluation.details["valid"], evaluation.splits["valid"].judges
    assert details.length_correlation.estimate == pytest.approx(1.0)
    assert judges["head"]["accuracy_over_pairs"].estimate > 0.85
    matched = details.length_matched
    assert matched.judges["head"] == matched.judges["longer"]
    assert matched.judges["head"]["accuracy_over_pairs"].estimate < 0.75
    assert 0 < matched.num_pairs < 0.5 * evaluation.splits["valid"].counts.num_pairs


def test_controls_hold_for_honest_scores_and_the_prompt_knows_no_pair(splits):
    controls = evaluated(splits).details["valid"].controls
    prompt, shuffled = controls["prompt_only"], controls["labels_shuffled"]
    for interval in (prompt.result["accuracy_over_pairs"], prompt.result["accuracy_over_problems"]):
        assert (interval.low, interval.estimate, interval.high) == (0.5, 0.5, 0.5)
    assert shuffled.result["accuracy_over_problems"].estimate == pytest.approx(0.5, abs=0.03)
    assert prompt.holds
    assert shuffled.holds


def test_shuffling_keeps_the_pairs_and_every_score_in_its_problem():
    scored = simulated(7)
    only_problem = scored.with_scores(scored.problem * 1.0)  # ties, unless scores cross problems
    tally = shuffled_tally(only_problem, seed=0)
    assert tally.num_pairs.tolist() == pairwise_counts(scored).num_pairs.tolist()
    assert (tally.wins == tally.num_pairs / 2).all()


def test_shuffled_labels_win_half_of_the_pairs_whatever_the_scores_know():
    scored = simulated(8, num_problems=300)
    tally = shuffled_tally(scored.with_scores(scored.is_correct * 1.0), seed=0)
    assert tally.wins.sum() / tally.total == pytest.approx(0.5, abs=0.02)


def test_the_prompt_scores_the_share_of_correct_samples(splits):
    labels = splits["valid"].is_correct.reshape(-1, 8)
    scores = prompt_only_scores(splits["valid"]).reshape(-1, 8)
    assert scores == pytest.approx(np.repeat(labels.mean(axis=1)[:, None], 8, axis=1))


def test_the_verdict_is_the_paired_difference_to_the_best_shortcut(splits):
    valid = splits["valid"]
    noise = np.random.default_rng(5).normal(size=len(valid))
    shortcuts = {"noise": noise, "half": valid.scores + 2 * noise, "longer": valid.output_tokens}
    evaluation = evaluated(splits, shortcuts={"valid": shortcuts})
    verdict, judges = evaluation.details["valid"].verdict, evaluation.splits["valid"].judges
    best = max(shortcuts, key=lambda name: judges[name]["accuracy_over_problems"].estimate)
    assert verdict.best_shortcut == best
    margin = verdict.margin["accuracy_over_problems"]
    expected = judges["head"]["accuracy_over_problems"].estimate
    assert margin.estimate == pytest.approx(
        expected - judges[best]["accuracy_over_problems"].estimate
    )
    wrong = rescued = 0
    for i in np.flatnonzero(valid.is_correct):
        rivals = (valid.problem == valid.problem[i]) & ~valid.is_correct
        missed = shortcuts[best][rivals] >= shortcuts[best][i]
        wrong += missed.sum()
        rescued += (missed & (valid.scores[rivals] < valid.scores[i])).sum()
    assert verdict.rescued.estimate == pytest.approx(rescued / wrong)


def test_a_head_that_is_its_shortcut_has_no_margin(splits):
    shortcuts = {"valid": {"copy": splits["valid"].scores}}
    evaluation = evaluated(splits, shortcuts=shortcuts)
    margin = evaluation.details["valid"].verdict.margin["accuracy_over_pairs"]
    assert (margin.low, margin.estimate, margin.high) == (0.0, 0.0, 0.0)
    assert evaluation.details["valid"].verdict.rescued.estimate == 0.0


def test_without_shortcuts_there_is_no_verdict(splits):
    assert evaluated(splits).details["valid"].verdict is None


def test_minimal_pairs_are_measured_for_every_judge(splits, shortcuts):
    valid = splits["valid"]
    pairs = [
        (int(i), int(j))
        for i in np.flatnonzero(valid.is_correct)[:40]
        for j in np.flatnonzero(~valid.is_correct & (valid.problem == valid.problem[i]))[:1]
    ]
    correct, incorrect = np.array(pairs).T
    facts = dict(minimal_pairs=Pairs(correct, incorrect))
    evaluation = evaluated(splits, shortcuts=shortcuts, facts={"valid": facts})
    minimal = evaluation.details["valid"].minimal_pairs
    assert minimal.num_pairs == len(pairs)
    for judge, scores in (("head", valid.scores), ("longer", shortcuts["valid"]["longer"])):
        won = (np.sign(scores[correct] - scores[incorrect]) + 1) / 2
        assert minimal.judges[judge]["accuracy_over_pairs"].estimate == pytest.approx(won.mean())


def test_what_could_not_be_computed_is_listed_with_the_reason(splits):
    none = np.zeros(0, np.int64)
    facts = {"valid": dict(minimal_pairs=Pairs(none, none), left_out={"bag_of_ngrams": "no texts"})}
    details = evaluated(splits, facts=facts).details
    assert details["valid"].minimal_pairs is None
    assert details["valid"].left_out == {
        "bag_of_ngrams": "no texts",
        "minimal_pairs": "no two outputs of a problem are a small edit apart",
        "best_of_n/majority": "no two outputs of a problem are the same",
    }


def test_best_of_n_is_between_any_candidate_and_the_oracle(splits, shortcuts):
    evaluation = evaluated(splits, shortcuts=shortcuts)
    best, valid = evaluation.details["valid"].best_of_n, splits["valid"]
    assert best.n == (1, 2, 4, 8)
    assert (best.num_problems, best.num_problems_left_out) == (25, 0)
    assert set(best.pickers) == {"head", "any", "oracle", "shortest"}
    rate = valid.is_correct.reshape(25, 8).mean()
    assert [found.estimate for found in best.pickers["any"]] == pytest.approx([rate] * 4)
    for head, oracle in zip(best.pickers["head"][1:], best.pickers["oracle"][1:], strict=True):
        assert rate < head.estimate < oracle.estimate
    top = valid.scores.reshape(25, 8).argmax(axis=1)
    picked = valid.is_correct.reshape(25, 8)[np.arange(25), top].mean()
    assert best.pickers["head"][-1].estimate == pytest.approx(picked)


def test_equal_outputs_bring_a_majority(splits):
    outputs = splits["valid"].problem * 10 + np.arange(200) % 3
    evaluation = evaluated(
        splits,
        facts={"valid": dict(outputs=outputs)},
    )
    assert "majority" in evaluation.details["valid"].best_of_n.pickers


def test_a_head_that_knows_the_problem_has_its_variance_between_problems(splits):
    valid = splits["valid"]
    remembers = valid.with_scores(valid.problem * 10.0 + valid.scores)
    shares = [evaluated({"valid": scored}).splits["valid"].numbers for scored in (valid, remembers)]
    assert shares[0]["variance.intraclass_correlation"].estimate == pytest.approx(0, abs=0.1)
    assert shares[0]["variance.between_problems"].estimate < 0.3
    assert shares[1]["variance.between_problems"].low > 0.99


def sample_table(**columns):
    return pa.table({"output_tokens": pa.array([3, 9, 5], type=pa.int32()), **columns})


def test_length_judges_are_opposites_also_of_a_table_in_chunks():
    scores = shortcut_scores(pa.concat_tables([sample_table(), sample_table()]))
    assert list(scores) == ["longer_is_correct", "shorter_is_correct"]
    assert scores["longer_is_correct"].tolist() == [3, 9, 5, 3, 9, 5]
    assert scores["shorter_is_correct"].tolist() == [-3, -9, -5, -3, -9, -5]


def test_likelihood_judges_appear_if_their_column_has_values():
    table = sample_table(
        logprob_sum=pa.array([None] * 3, type=pa.float32()),
        logprob_mean=pa.array([-1.0, -2.0, None], type=pa.float32()),
        entropy_mean=pa.array([1.0, 1.0, 1.0], type=pa.float32()),
    )
    scores = shortcut_scores(table)
    assert list(scores)[2:] == ["logprob_mean"]
    assert scores["logprob_mean"].dtype == np.float64
    assert scores["logprob_mean"].tolist()[:2] == [-1.0, -2.0]
    assert np.isnan(scores["logprob_mean"][2])


def test_the_answer_of_the_backbone_is_a_judge_on_the_scale_of_a_probability():
    table = sample_table(
        yes_logprob=pa.array(np.log([0.3, 0.01, 0.5]), type=pa.float32()),
        no_logprob=pa.array(np.log([0.1, 0.09, 0.5]), type=pa.float32()),
    )
    found = shortcut_scores(table)["probability_of_yes"]
    np.testing.assert_allclose(found, [0.75, 0.1, 0.5], rtol=1e-6)
