"""The report: every figure, no request to the network, and nothing in it that runs."""

import dataclasses
import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from featurize.io.figures import INK
from headtrain.evaluation.evaluate import EvaluatedHead, ReadSplit
from headtrain.evaluation.problems import MOST_TEXTS, find_problem, read_problems
from headtrain.evaluation.texts import SplitTexts, TextSource
from headtrain.features.samples import LabelledSamples
from headtrain.metrics.bootstrap import Interval
from headtrain.metrics.pairwise import EvaluationError, ScoredSamples
from headtrain.report import page as page_module
from headtrain.report.figures import Content, draw_layers
from headtrain.report.glossary import GLOSSARY, PICKERS, term_id
from headtrain.report.page import Report
from headtrain.report.provenance import Provenance
from headtrain.report.template import say_along
from headtrain.settings import EvaluationSettings
from tests.support.pages import EVIL, Elements, check_is_inert, check_links, read_evil
from tests.support.simulated_splits import evaluated, simulated

SETTINGS = EvaluationSettings(bootstrap_rounds=50)


def read_split(scored, texts):
    n = len(scored)
    return ReadSplit(
        labelled=LabelledSamples(
            table_rows=np.arange(n),
            problems=scored.problem,
            is_correct=scored.is_correct,
            output_tokens=scored.output_tokens,
            feature_rows=np.arange(n),
            num_unlabelled=0,
        ),
        scored=scored,
        texts=SplitTexts(task_ids=pa.array([str(place) for place in range(n)]), source=texts),
    )


def judged(texts=None):
    splits = {"train": simulated(0, 12), "valid": simulated(1, 12)}
    languages = np.array(
        [f"language {code % 2} {EVIL}" for code in splits["valid"].problem], object
    )
    evaluation = evaluated(
        splits,
        shortcuts={name: {"longer": s.output_tokens * 1.0} for name, s in splits.items()},
        facts={"valid": dict(attributes={"language": languages}, left_out={"x": EVIL})},
        settings=SETTINGS,
    )
    source = texts or TextSource(read=read_evil)
    return EvaluatedHead(
        evaluation=evaluation,
        splits={name: read_split(scored, source) for name, scored in splits.items()},
    )


def write(folder, evaluated_head):
    return Report(
        evaluated=evaluated_head,
        split="valid",
        title=f"demo {EVIL}",
        about={"head": EVIL, "folder": "/a/path/without/a/space" * 5},
        num_mistakes=3,
        provenance=Provenance(rows={"head": EVIL}, config=f"name: {EVIL}"),
        history={"train/accuracy": [(1, 0.5), (2, 0.8)], "valid/accuracy": [(2, 0.6)]},
        sweep={"mean.2": Interval(estimate=0.6, low=0.5, high=0.7)},
    ).write(folder)


@pytest.fixture(scope="module")
def evaluated_head():
    return judged()


@pytest.fixture(scope="module")
def report(evaluated_head, tmp_path_factory):
    return write(tmp_path_factory.mktemp("report"), evaluated_head)


def test_every_figure_is_on_the_page_and_in_a_file(report):
    pictures = [path for path in report if path.suffix == ".png"]
    names = {path.stem for path in pictures}
    assert names == {
        "shortcuts", "margins-train", "margins-valid", "problems", "reliability",
        "length-difference", "best-of-n", "training", "sweep",
    }  # fmt: skip
    for path in pictures:
        assert path.parent.name == "valid"
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 3000
    assert report[0].read_text().count("<svg") == len(names)


@pytest.mark.parametrize("place", [0, 1])
def test_the_pages_request_nothing_and_run_nothing(report, place):
    folder = report[place].parent
    check_is_inert(
        report[place].read_text(), is_page=lambda target: (folder / target).resolve() in report
    )


@pytest.mark.parametrize("place", [0, 1])
def test_markup_in_the_data_is_shown_as_text(report, place):
    page = report[place].read_text()
    text = Elements(page).text
    assert text.count("<script>alert(1)</script>") >= 3 * 3
    assert "{{ 7*7 }}" in text
    assert "&amp;" in text


def test_figures_take_the_colour_of_the_page(report):
    page = report[0].read_text()
    assert "prefers-color-scheme: dark" in page
    figures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    for figure in figures:
        ElementTree.fromstring(figure.replace("xlink:href", "href"))  # well-formed
        assert INK not in figure
        assert "currentColor" in figure
        assert "#000000" not in figure
        assert "#ffffff" not in figure


def test_ids_on_the_page_are_unique_and_their_uses_resolve(report):
    ids = check_links(report[0].read_text())
    assert len(ids) > 100
    assert {term_id(term) for term in GLOSSARY} <= ids


def test_equal_judgements_give_equal_files(report, tmp_path):
    again = write(tmp_path, judged())
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in report]


def test_long_names_leave_the_sweep_figure_most_of_its_width(evaluated_head):
    names = ("mean.2", " + ".join(f"mean.{n}" for n in range(10, 14)))
    sweep = {name: Interval(estimate=0.7, low=0.6, high=0.8) for name in names}
    figure = draw_layers(Content(evaluated=evaluated_head, split="valid", sweep=sweep))
    figure.canvas.draw()
    [axes] = figure.axes
    assert axes.get_position().width > 0.55
    [_, label] = axes.get_yticklabels()
    assert " ".join(label.get_text().split()) == names[0]


def test_the_numbers_of_the_page_are_those_of_the_evaluation(report, evaluated_head):
    text = " ".join(Elements(report[0].read_text()).text.split())
    head = evaluated_head.evaluation.splits["valid"].judges["head"]["accuracy_over_problems"]
    assert f"{head.estimate:.3f} [{head.low:.3f}, {head.high:.3f}]" in text
    margin = evaluated_head.evaluation.details["valid"].verdict.margin["accuracy_over_problems"]
    assert f"{100 * margin.estimate:.1f} points" in text


def test_without_texts_there_are_no_problems_and_the_rest_is_there():
    evaluated_head = judged(TextSource(why_not="the dataset is gone"))
    assert read_problems(evaluated_head, "valid") == ()
    report = Report(evaluated=evaluated_head, split="valid", title="demo", about={}, num_mistakes=0)
    page = report.render([], [])
    assert "Problems, the worst first" not in page
    assert "Best of n" in page


def test_problems_are_ranked_from_the_lowest_accuracy(evaluated_head):
    scored = evaluated_head.splits["valid"].scored
    problems = read_problems(evaluated_head, "valid")
    expected = []
    for code in np.unique(scored.problem):
        places = np.flatnonzero(scored.problem == code)
        right, wrong = (places[scored.is_correct[places] == label] for label in (True, False))
        margins = scored.scores[right][:, None] - scored.scores[wrong][None, :]
        if margins.size:
            expected.append(((margins > 0).mean(), min(0.0, margins.min()), margins.size, places))
    expected.sort(key=lambda one: one[:2])
    assert len(problems) == len(expected)
    for problem, (accuracy, margin, size, places) in zip(problems, expected, strict=True):
        assert problem.accuracy == pytest.approx(accuracy)
        assert problem.num_pairs == size
        assert (problem.wrong is not None) == (margin < 0)
        if problem.wrong:
            correct, incorrect = problem.wrong
            assert correct.score - incorrect.score == pytest.approx(margin)
            assert (correct.is_correct, incorrect.is_correct) == (True, False)
            assert correct.probability < incorrect.probability
        ranked = places[np.argsort(-scored.scores[places])]
        assert [one.task_id for one in problem.candidates] == [str(place) for place in ranked]
        assert [one.rank for one in problem.candidates] == list(range(1, len(places) + 1))
        assert [one.output.split()[1] for one in problem.candidates] == [*map(str, ranked)]


def with_prefixes(evaluated_head, shares):
    """Add a split whose prefixes have values of their own."""
    read = evaluated_head.splits["valid"]
    noise = np.random.default_rng(3).normal(size=len(read.scored))
    prefixes = {share: read.scored.scores + (1 - share) * noise for share in shares}
    splits = {**evaluated_head.splits, "valid": dataclasses.replace(read, prefixes=prefixes)}
    return dataclasses.replace(evaluated_head, splits=splits)


def test_every_output_has_its_values_along_it_where_the_store_has_segments(
    evaluated_head, tmp_path, monkeypatch
):
    monkeypatch.setattr(page_module, "render_all", lambda content: [])
    evaluated_head = with_prefixes(evaluated_head, (0.25, 0.5, 0.75, 1.0))
    _, page = write(tmp_path, evaluated_head)
    problems = read_problems(evaluated_head, "valid")
    pairs = sum(2 for one in problems if one.wrong)
    lines = re.findall(r'<svg class="along".*?</svg>', page.read_text(), re.DOTALL)
    assert len(lines) == pairs + sum(len(one.candidates) for one in problems)
    text = Elements(page.read_text()).text
    for candidate in problems[0].candidates:
        place, scores = int(candidate.task_id), evaluated_head.splits["valid"].prefixes
        assert list(candidate.along.values()) == [scores[share][place] for share in scores]
        assert candidate.along[1.0] == candidate.score
        assert f"value after {say_along(candidate.along)}" in text
    assert "after 25%, 50%, 75% and 100% of its tokens" in text
    low, high = problems[0].bounds_along
    assert {low, high} <= {v for one in problems[0].candidates for v in one.along.values()}


@pytest.mark.parametrize("shares", [(), (1.0,)])
def test_without_values_of_prefixes_there_is_no_line(evaluated_head, tmp_path, monkeypatch, shares):
    monkeypatch.setattr(page_module, "render_all", lambda content: [])
    pages = write(tmp_path, with_prefixes(evaluated_head, shares))
    for page in pages:
        assert 'class="along"' not in page.read_text()
        assert "value after" not in page.read_text()


def test_the_subsets_of_the_pairs_are_one_table(report, evaluated_head):
    text = report[0].read_text()
    subsets = evaluated_head.evaluation.details["valid"].subsets
    assert subsets
    table = text[text.index("subsets of the pairs") : text.index("by language")]
    assert table.count("<table>") == 1
    for title, part in subsets.items():
        assert title in table
        assert part.name in table


def test_every_way_to_pick_is_explained(evaluated_head):
    pickers = set(evaluated_head.evaluation.details["valid"].best_of_n.pickers)
    assert pickers - {"head"} <= set(PICKERS)


def test_of_many_outputs_only_the_best_and_the_wrong_pair_have_their_text():
    n = 3 * MOST_TEXTS
    scored = ScoredSamples(
        scores=np.arange(n, 0, -1) * 1.0,
        is_correct=np.arange(n) == n - 1,  # the worst of all is the only correct one
        problem=np.zeros(n, int),
        output_tokens=np.ones(n, int),
    )
    evaluated_head = EvaluatedHead(
        evaluation=judged().evaluation,
        splits={"valid": read_split(scored, TextSource(read=read_evil))},
    )
    [problem] = read_problems(evaluated_head, "valid")
    shown = [one.rank for one in problem.candidates if one.output is not None]
    assert shown == [*range(1, MOST_TEXTS), n]
    assert problem.num_not_shown == n - MOST_TEXTS
    assert [one.rank for one in problem.wrong] == [n, 1]


def test_one_problem_is_found_by_id_with_the_texts_of_its_best_and_worst(evaluated_head):
    read = evaluated_head.splits["valid"]
    ids = [f"problem {code}" for code in read.scored.problem]
    decision = evaluated_head.evaluation.decision
    problems = read_problems(evaluated_head, "valid")
    wanted = problems[0]
    first = int(wanted.candidates[0].task_id)
    found = find_problem(read, ids, decision, ids[first])
    assert [one.score for one in found.candidates] == [one.score for one in wanted.candidates]
    assert [one.probability for one in found.candidates] == [
        one.probability for one in wanted.candidates
    ]
    assert (found.candidates[0].output, found.candidates[-1].output) == (
        wanted.candidates[0].output,
        wanted.candidates[-1].output,
    )
    assert all(one.output is None for one in found.candidates[1:-1])
    middle = problems[len(problems) // 2]
    assert find_problem(read, ids, decision).candidates[0].task_id == middle.candidates[0].task_id
    assert find_problem(read, ids, None).candidates[0].probability is None


def test_a_problem_that_is_not_there_is_named_with_the_nearest(evaluated_head):
    read = evaluated_head.splits["valid"]
    ids = [f"problem {code}" for code in read.scored.problem]
    with pytest.raises(EvaluationError, match=r"no problem 'problm 1' .*problem 1"):
        find_problem(read, ids, None, "problm 1")
    without = judged(TextSource(why_not="the dataset is gone")).splits["valid"]
    with pytest.raises(EvaluationError, match="no texts to show"):
        find_problem(without, ids, None)


def test_pages_of_problems_are_cut_linked_and_replaced(evaluated_head, tmp_path, monkeypatch):
    num_problems = len(read_problems(evaluated_head, "valid"))
    monkeypatch.setattr(page_module, "render_all", lambda content: [])
    monkeypatch.setattr(page_module, "PROBLEMS_PER_PAGE", 5)
    many = [path for path in write(tmp_path, evaluated_head) if path.name.startswith("problems-")]
    assert len(many) == -(-num_problems // 5)
    report = (tmp_path / "valid.html").read_text()
    assert all(f'href="valid/{path.name}"' in report for path in many)
    shown = [path.read_text().count('<details class="problem"') for path in many]
    assert sum(shown) == num_problems
    monkeypatch.setattr(page_module, "PROBLEMS_PER_PAGE", 200)
    write(tmp_path, evaluated_head)
    left = sorted(path.name for path in (tmp_path / "valid").glob("problems-*.html"))
    assert left == ["problems-1.html"]


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it_whole_at_any_width(report, width, scheme):
    """In a headless Chromium, where there is one (apt-get install chromium) with playwright."""
    playwright = pytest.importorskip("playwright.sync_api")
    names = ("chromium-headless-shell", "chromium", "google-chrome")
    browser_path = next((path for name in names if (path := shutil.which(name))), None)
    if browser_path is None:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        said, asked = [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(Path(report[0]).absolute().as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        boxes = page.locator("figure svg").evaluate_all(
            "all => all.map(one => [one.getBoundingClientRect().width, "
            "one.getBoundingClientRect().height])"
        )
        assert len(boxes) == 9
        assert all(w > 250 and h > 80 for w, h in boxes)
        paper, ink = page.evaluate(
            "[getComputedStyle(document.body).backgroundColor, "
            "getComputedStyle(document.querySelector('figure svg text')).fill]"
        )
        lightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (paper, ink)]
        assert (lightness[0] > lightness[1]) == (scheme == "light")
        assert (said, len(asked)) == ([], 1)
        hints = page.locator(".scroll").evaluate_all(
            "all => all.map(one => [one.scrollWidth > one.clientWidth, "
            "getComputedStyle(one, '::before').display !== 'none'])"
        )
        assert hints
        assert all(is_cut == has_hint for is_cut, has_hint in hints)
        page.set_viewport_size({"width": 794, "height": 1100})  # A4
        page.emulate_media(media="print", color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= 794
        assert page.evaluate("getComputedStyle(document.body).color") == "rgb(28, 30, 33)"
        browser.close()
