"""Languages that differ in case or outer spaces are one language, and that is said."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from featurize.data.index import DatasetIndex


def test_a_language_in_two_spellings_is_one_and_a_warning_counts_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    rows = [
        {"instruction": "Add.", "output": str(n), "metadata": {"language": language}}
        for n, language in enumerate(["Python", "python", "python ", "python", "C", None])
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with caplog.at_level(logging.WARNING):
        index = DatasetIndex.build(str(path), tmp_path / "cache")
    samples = {s.output: s.language for s in index.read(np.arange(len(index)))}
    assert samples == dict.fromkeys("0123", "python") | {"4": "C", "5": None}
    assert sorted(set(index.table["language"].to_pylist()), key=str) == ["C", None, "python"]
    assert "language 'Python' of 1 samples is taken as 'python'" in caplog.text
