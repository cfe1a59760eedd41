"""A session of featurize: which process goes on with the store, and what is kept of its command."""

from pathlib import Path

import pytest

from featurize.run.launch import LAUNCHED
from featurize.run.session import run_session
from tests.support.tiny_jobs import make_plan, make_rows, write_rows, write_store


def test_the_process_that_was_started_by_hand_goes_on_and_its_workers_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(tmp_path, write_rows(tmp_path / "rows.jsonl", make_rows(2)))
    write_store(plan)
    assert run_session(plan.job, title="plan")
    assert "up to date, nothing done" in capsys.readouterr().out
    monkeypatch.setenv(LAUNCHED, str(tmp_path))
    assert not run_session(plan.job, title="plan")


def test_a_plan_that_is_only_shown_leaves_nothing_to_go_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(tmp_path, write_rows(tmp_path / "rows.jsonl", make_rows(2)))
    assert not run_session(plan.job, title="what will be done", plan_only=True)
    assert "what will be done" in capsys.readouterr().out
    assert not (tmp_path / "store" / "manifest.json").exists()
