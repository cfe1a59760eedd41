"""The page of several heads: their numbers, their code, and nothing that runs."""

import dataclasses
import json
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pytest

from headtrain.evaluation.comparison import compare_all
from headtrain.evaluation.texts import SplitTexts, TextSource
from headtrain.report.comparison import HeadOnPage, SideBySidePage, compare_with_first
from headtrain.report.sweep import SweepOnPage
from tests.support.pages import EVIL, Elements, check_is_inert, check_links, read_evil
from tests.support.simulated_splits import SETTINGS, simulated
from tests.unit.headtrain.report.test_sweep_page import CURVE
from tests.unit.headtrain.report.test_sweep_report import RESULT


def page_of(source):
    first = simulated(0)
    noise = np.random.default_rng(1).normal(size=len(first))
    found = compare_all([first, first.with_scores(noise)], SETTINGS, num_disagreements=4)
    ids = pa.chunked_array([[str(place) for place in range(len(first))]])
    return SideBySidePage(
        title=f"demo {EVIL}",
        found=found,
        heads={name: HeadOnPage(path=EVIL, facts={"head": EVIL}) for name in found.heads},
        texts=SplitTexts(task_ids=ids, source=source),
        confidence=0.95,
        num_left_out=3,
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    page = page_of(TextSource(read=read_evil))
    path = tmp_path_factory.mktemp("heads") / "report.html"
    page.write(path)
    return page.found, path.read_text("utf-8")


def test_the_page_has_the_numbers_and_the_disagreements(written):
    found, page = written
    text = " ".join(Elements(page).text.split())
    for accuracy in found.heads.values():
        interval = accuracy["accuracy_over_problems"]
        assert f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]" in text
    one = found.comparisons["B"]
    assert page.count('<details class="problem"') == len(one.wins) + len(one.losses) == 4
    assert '<td class="good">' in page
    assert "3 that not all stores have are left out" in text


def test_the_page_runs_and_requests_nothing(written):
    _, page = written
    check_is_inert(page)
    check_links(page)


def test_the_page_begins_with_which_heads_differ() -> None:
    first, sure = simulated(0), simulated(0, strength=1.0)
    worse = first.with_scores(np.random.default_rng(1).normal(size=len(first)))
    better = first.with_scores(first.scores + 3 * first.is_correct)
    found = compare_all([first, worse, better, sure], SETTINGS, num_disagreements=1)
    said = compare_with_first(found)
    down, up = (
        abs(found.differences[name]["A"]["accuracy_over_problems"].estimate) for name in "BC"
    )
    assert f"B is worse than A by {down:.3f}; C is better than A by {up:.3f}" in said
    assert said.endswith("D is not shown to differ from A (accuracy over problems, paired).")
    alone = compare_with_first(compare_all([first], SETTINGS, num_disagreements=1))
    assert alone.startswith("One head: accuracy 0.")


def test_the_sweep_of_a_head_is_on_the_page(tmp_path) -> None:
    (tmp_path / "sweep.json").write_text(json.dumps(RESULT.to_dict()))
    (tmp_path / "curve.json").write_text(json.dumps(asdict(CURVE)))
    sweep = SweepOnPage.read(tmp_path, "A")
    page = dataclasses.replace(page_of(TextSource(read=read_evil)), sweeps={"A": sweep})
    page.write(tmp_path / "report.html")
    written = (tmp_path / "report.html").read_text("utf-8")
    assert written.count("<svg") == 3
    assert "Buy problems." in written
    assert 'href="#section-sweep-A"' in written
    check_links(written)


def test_without_texts_the_page_says_why_there_is_no_code(tmp_path):
    page_of(TextSource(why_not="the dataset is gone")).write(tmp_path / "report.html")
    assert "No code to show: the dataset is gone." in (tmp_path / "report.html").read_text("utf-8")
