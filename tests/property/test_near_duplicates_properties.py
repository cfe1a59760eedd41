"""Near-duplicates agree with the comparison of every pair, whatever the texts and their order."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurize.data.near_duplicates import near_duplicates

TEXTS = st.lists(
    st.lists(st.sampled_from("abcd"), min_size=0, max_size=30).map(" ".join), max_size=12
)


def grams(text: str, ngram: int) -> set[tuple[str, ...]]:
    words = text.split()
    words += [""] * (ngram - len(words))
    return {tuple(words[i : i + ngram]) for i in range(len(words) - ngram + 1)}


@settings(max_examples=60, deadline=None)
@given(texts=TEXTS, ngram=st.integers(1, 4), threshold=st.sampled_from([0.5, 0.8, 1.0]))
def test_the_pairs_are_those_of_comparing_all(texts: list[str], ngram: int, threshold: float):
    expected = []
    for i, j in itertools.combinations(range(len(texts)), 2):
        first, second = grams(texts[i], ngram), grams(texts[j], ngram)
        similarity = len(first & second) / len(first | second)
        if similarity >= threshold:
            expected.append((i, j, pytest.approx(similarity)))
    assert near_duplicates(texts, threshold=threshold, ngram=ngram) == expected


@settings(max_examples=30, deadline=None)
@given(texts=TEXTS, seed=st.randoms(use_true_random=False))
def test_the_order_of_the_texts_changes_nothing(texts: list[str], seed):
    order = list(range(len(texts)))
    seed.shuffle(order)
    shuffled = near_duplicates([texts[place] for place in order])
    back = [(*sorted((order[i], order[j])), similarity) for i, j, similarity in shuffled]
    assert sorted(back) == near_duplicates(texts)
