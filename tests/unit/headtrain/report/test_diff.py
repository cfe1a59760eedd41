"""The differences of two programs: whole texts, marked where they differ."""

from hypothesis import example, given
from hypothesis import strategies as st

from headtrain.report.diff import MOST_LINES, diff

LINES = st.lists(st.text("ab =\n\r", max_size=12), max_size=8).map("\n".join)


def joined(parts):
    return "".join(part.text for part in parts)


def marked(parts):
    return [part.text for part in parts if part.is_marked]


@given(LINES, LINES)
@example("", "a")
@example("a\r\nb", "a\nb\x0c")
@example(" a=b\n", " aa\n a==b\n")
def test_the_parts_are_the_texts_and_what_is_not_marked_is_the_same(first, second):
    found = diff(first, second)
    assert (joined(found.first), joined(found.second)) == (first, second)
    same = [
        "".join(part.text for part in side if not part.is_marked)
        for side in (found.first, found.second)
    ]
    assert same[0] == same[1]
    assert (marked(found.first) == marked(found.second) == []) == (first == second)


def test_a_changed_operator_alone_is_marked():
    found = diff("def f(x):\n    return x + 1\n", "def f(x):\n    return x - 1\n")
    assert (marked(found.first), marked(found.second)) == (["+"], ["-"])


def test_an_added_line_is_marked_on_its_side():
    found = diff("a = 1\nb = 2\n", "a = 1\nprint(a)\nb = 2\n")
    assert (marked(found.first), marked(found.second)) == ([], ["print(a)\n"])


def test_a_line_added_in_a_changed_block_is_marked_with_its_own_indentation():
    first = "if x:\n    for k in range(i + 1):\n        pass\n"
    second = "if x:\n    n = i + 1\n    for k in range(n):\n        pass\n"
    found = diff(first, second)
    assert (marked(found.first), marked(found.second)) == (["i + 1"], ["    n = i + 1\n", "n"])


def test_a_line_with_nothing_alike_is_marked_whole():
    found = diff("return total\n", "xyzzy\n")
    assert marked(found.first) == ["return total\n"]


def test_programs_of_very_many_lines_are_not_compared():
    long = "x\n" * (MOST_LINES + 1)
    assert marked(diff(long, "y").first) == []
