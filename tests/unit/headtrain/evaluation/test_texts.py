"""Texts from the data, made safe to show."""

import pytest

from headtrain.evaluation.texts import to_visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\nc", "a\tb\nc"),
        ("line\r\nnext", "line\nnext"),
        ("over\rwritten", "over\ufffdwritten"),
        ("\x1b[2J\x9b1m", "\ufffd[2J\ufffd1m"),
        ("\u202eabc\u2066\u200b\ufeff", "\ufffdabc\ufffd\ufffd\ufffd"),
        ("naïve Übung 中文 🙂", "naïve Übung 中文 🙂"),
        ("", ""),
    ],
)
def test_text_from_elsewhere_becomes_harmless(text, shown):
    assert to_visible(text) == shown
