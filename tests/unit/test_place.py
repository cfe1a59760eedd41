from pathlib import Path

import pytest

from configs.layout import Layout
from configs.loader import load_config
from headtrain.evaluation.place import results_dir


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.chdir(tmp_path)
    layout = Layout.from_config(load_config(None, ["experiment.name=demo"]))
    (layout.checkpoint_dir / "final").mkdir(parents=True)
    return layout


def test_results_of_the_head_that_is_judged_by_default_are_on_top(layout: Layout) -> None:
    best, final = (str(layout.checkpoint_dir / name) for name in ("best", "final"))
    assert results_dir(final, layout) == layout.evaluation_dir
    Path(best).mkdir()
    assert results_dir(best, layout) == layout.evaluation_dir
    assert results_dir(str(Path(best).absolute()), layout) == layout.evaluation_dir
    assert results_dir(final, layout) == layout.evaluation_dir / "final"


def test_results_of_other_heads_are_in_folders_named_after_them(layout: Layout) -> None:
    winner = str(layout.checkpoint_dir / "sweep" / "winner")
    assert results_dir(winner, layout) == layout.evaluation_dir / "sweep-winner"
    heads = ["other/best", "elsewhere/other/best", "s3://bucket/other/best", "a b/<best>"]
    folders = [results_dir(head, layout) for head in heads]
    assert len(set(folders)) == len(heads)
    assert all(folder.parent == layout.evaluation_dir for folder in folders)
    assert [folder.name[:-7] for folder in folders] == [*["other-best"] * 3, "a-b-best"]
