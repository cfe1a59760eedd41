"""The calibration a head carries: that of eval, on the heads to use, and nowhere else."""

from pathlib import Path

import pytest
from headtrain.training.decision import fit_decision

from featurize.store import FeatureStore
from headtrain.evaluation.evaluate import evaluate_head
from headtrain.head.checkpoint import load_head
from headtrain.settings import EvaluationSettings
from tests.support.train_runs import make_train


@pytest.mark.parametrize("train_holdout", [0.0, 0.25])
def test_best_and_final_carry_the_decision_that_eval_finds(
    tmp_path: Path, train_holdout: float
) -> None:
    result = make_train(tmp_path)("run", train_holdout=train_holdout)
    train, valid = (FeatureStore.open(tmp_path / name) for name in ("train", "valid"))
    settings = EvaluationSettings(bootstrap_rounds=100)
    assert result.best is not None
    assert result.final is not None
    for folder in (result.best, result.final):
        head = load_head(folder)
        judged = evaluate_head(head, {"train": train, "valid": valid}, settings)
        assert head.record.decision == judged.evaluation.decision
        alone = evaluate_head(head, {"valid": valid}, settings, decision=head.record.decision)
        numbers = [found.evaluation.splits["valid"].numbers for found in (judged, alone)]
        assert numbers[0] == numbers[1]
        assert "decision.brier" in numbers[0]


def test_a_checkpoint_on_the_way_has_none_and_can_be_given_one(tmp_path: Path) -> None:
    make_train(tmp_path)("run")
    folder = min((tmp_path / "run").glob("step-*"))
    head = load_head(folder)
    assert head.record.decision is None
    decision = fit_decision(FeatureStore.open(tmp_path / "train"), head)
    assert decision.calibration.slope != 0
