"""The page of a sweep: its points and figures, the learning curve if there is one, no script."""

import dataclasses
import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from headtrain.metrics.bootstrap import Interval
from headtrain.report.sweep import curve_rows, read_own_sweep, write_sweep_page
from headtrain.sweep.curve import (
    CANDIDATES,
    PROBLEMS,
    BackboneGain,
    Curve,
    CurveResult,
    LayerGain,
    Level,
)
from tests.support.pages import EVIL, Elements, check_is_inert, check_links
from tests.unit.headtrain.report.test_sweep_report import RESULT, point, result_of
from tests.unit.headtrain.report.test_sweep_report import write as write_result

GAIN = Interval(estimate=0.02, low=0.01, high=0.03)


def accuracy(estimate: float) -> Interval:
    return Interval(estimate=estimate, low=estimate - 0.1, high=estimate + 0.1)


def curve_of(axis: str, *sizes: float) -> Curve:
    levels = tuple(
        Level(size=size, accuracy=accuracy(0.6 + place / 20)) for place, size in enumerate(sizes)
    )
    return Curve(axis=axis, levels=levels, doubled=accuracy(0.8), gain=GAIN, note=None)


CURVE = CurveResult(
    point=f"features={EVIL}",
    seeds=(1, 2, 3),
    curves=(curve_of(PROBLEMS, 10, 20, 1000), curve_of(CANDIDATES, 2, 8.2587, 9.6)),
    layer=LayerGain(tensor="mean.24", gain=GAIN),
    confidence=0.95,
    verdict=f"Buy problems. {EVIL}",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_result(tmp_path, RESULT)
    return tmp_path


def with_curve(folder: Path, curve: CurveResult = CURVE) -> str:
    (folder / "curve.json").write_text(json.dumps(asdict(curve)))
    return write_sweep_page(folder, f"demo {EVIL}").read_text("utf-8")


def test_the_page_has_all_points_and_both_figures(folder: Path) -> None:
    page = with_curve(folder)
    text = " ".join(re.sub("<[^>]+>", " ", page).split())
    assert len(re.findall(r"<svg [^>]*>.*?</svg>", page, re.DOTALL)) == 2
    assert "features=mean.12 dropout=0.3 2 0.650 [0.550, 0.750] 0.650" in text
    assert "diverged" in text
    assert "Buy problems." in text
    assert "1,000 problems 0.700 [0.600, 0.800]" in text
    assert "8.3 candidates" in text
    assert "not measured" in text


def test_without_a_curve_there_is_one_figure_and_no_link_to_another(folder: Path) -> None:
    page = write_sweep_page(folder, "demo").read_text("utf-8")
    assert page.count("<svg") == 1
    assert "curve" not in Elements(page).text


def test_another_backbone_is_named_with_what_was_read_of_it() -> None:
    gain = BackboneGain(name="gemma", features="abc", tensors=("mean.7",), gain=GAIN)
    rows = curve_rows(dataclasses.replace(CURVE, larger_backbone=gain))
    assert rows["gain with gemma (mean.7)"] == str(GAIN)
    assert "gain with a larger backbone" not in rows


def test_the_page_runs_and_requests_nothing(folder: Path) -> None:
    page = with_curve(folder)
    check_is_inert(page)
    check_links(page)
    assert "<script>alert(1)</script>" in Elements(page).text


def test_the_same_results_leave_the_file_as_it_is(folder: Path) -> None:
    path = write_sweep_page(folder, "demo")
    before = path.stat().st_mtime_ns
    assert write_sweep_page(folder, "demo").stat().st_mtime_ns == before
    write_result(folder, result_of(point("mean.2", estimate=0.6)))
    assert write_sweep_page(folder, "demo").stat().st_mtime_ns != before


def test_only_the_winner_of_a_sweep_has_a_sweep(folder: Path) -> None:
    found = read_own_sweep(str(folder / "winner"), "A")
    assert found is not None
    assert (found.result.num_heads, found.curve) == (RESULT.num_heads, None)
    assert read_own_sweep(str(folder / "elsewhere" / "best"), "A") is None
