"""Near-duplicate texts are found, with the Jaccard similarity of their n-grams."""

import random

import pytest

from featurize.data.near_duplicates import near_duplicates, normalise

WORDS = [f"word{number}" for number in range(500)]


def text(seed: int, length: int = 200) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def jaccard(first: str, second: str, ngram: int = 5) -> float:
    sets = []
    for one in (first, second):
        words = one.split()
        sets.append({tuple(words[i : i + ngram]) for i in range(len(words) - ngram + 1)})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def with_changes(original: str, *places: int) -> str:
    words = original.split()
    for place in places:
        words[place] = "changed"
    return " ".join(words)


def test_case_spacing_and_unicode_forms_are_ignored():
    assert normalise("  Straße\n\t \uff21\uff22 ﬁn ") == "strasse ab fin"
    assert normalise("") == ""


def test_texts_that_differ_in_few_words_are_found_with_their_similarity():
    original = text(0)
    texts = [text(1), original, text(2), with_changes(original, 20, 150), text(3)]
    assert near_duplicates(texts) == [(1, 3, pytest.approx(jaccard(texts[1], texts[3])))]


def test_texts_below_the_threshold_are_not_found():
    texts = [text(0), with_changes(text(0), *range(5, 200, 12))]
    similarity = jaccard(*texts)
    assert near_duplicates(texts, threshold=similarity + 0.01) == []
    assert near_duplicates(texts, threshold=similarity - 0.01) == [
        (0, 1, pytest.approx(similarity))
    ]


def test_equal_texts_have_similarity_1_and_are_equally_similar_to_others():
    original = text(0)
    near = with_changes(original, 0)
    found = near_duplicates([original, near, original.upper(), f"\n{original}  "])
    ones = [(0, 2, 1.0), (0, 3, 1.0), (2, 3, 1.0)]
    similarity = pytest.approx(jaccard(original, near))
    others = [(0, 1, similarity), (1, 2, similarity), (1, 3, similarity)]
    assert found == sorted(ones + others, key=lambda pair: pair[:2])


def test_texts_shorter_than_an_ngram_are_compared_as_wholes():
    assert near_duplicates(["a b", "A  b", "a b c", "", "x"]) == [(0, 1, 1.0)]
    assert near_duplicates(["", " "]) == [(0, 1, 1.0)]
    assert near_duplicates([]) == []


def test_scripts_without_spaces_are_compared_by_characters():
    draw = random.Random(0)
    original = "".join(chr(draw.randrange(0x4E00, 0x9000)) for _ in range(200))
    [(first, second, similarity)] = near_duplicates(
        [original, original[:100] + "口" + original[101:]]
    )
    assert (first, second) == (0, 1)
    assert similarity == pytest.approx(191 / 201)  # five of 196 n-grams differ


def test_punctuation_counts():
    expression = "print ( a + b * c - d )"
    assert near_duplicates([expression, expression.replace("*", "/")], ngram=1) == [
        (0, 1, pytest.approx(9 / 11))
    ]


def test_no_pair_near_the_threshold_is_missed():
    """All pairs are just above it; the probability of missing one is one in a million."""
    texts = []
    for seed in range(150):
        texts += [text(seed), with_changes(text(seed), 10, 40, 80, 120)]
    similar = jaccard(texts[0], texts[1])
    assert 0.8 < similar < 0.85
    pairs = [(first, second) for first, second, _ in near_duplicates(texts)]
    assert pairs == [(number, number + 1) for number in range(0, 300, 2)]


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.01, float("nan")])
def test_a_threshold_out_of_range_is_refused(threshold: float):
    with pytest.raises(ValueError, match=r"threshold is .*; give a similarity above 0"):
        near_duplicates(["a"], threshold=threshold)


def test_an_ngram_without_tokens_is_refused():
    with pytest.raises(ValueError, match="ngram is 0; give at least 1 token"):
        near_duplicates(["a"], ngram=0)
