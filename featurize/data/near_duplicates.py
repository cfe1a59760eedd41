"""Finds texts that are nearly the same: equal but for case, spacing and a few words."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import TypeAlias

import numpy as np
from datasketch import MinHash, MinHashLSH
from numpy.typing import NDArray

NUM_PERMUTATIONS = 128
MAX_MISS = 1e-6  # chance that a pair exactly at the threshold is not even looked at
_SEED = 1
# Of the multiplicative hash that names n-grams: 2**64 / golden ratio, and half a word.
_ODD = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)

# Scripts without spaces count character by character; a sentence of them would be one token.
_UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+|[^\w\s]")

Grams: TypeAlias = NDArray[np.uint64]  # [n-grams] of one text, ascending, each once


def normalise(text: str) -> str:
    """Fold what does not make a text another one: Unicode forms, case, white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def near_duplicates(
    texts: Sequence[str], *, threshold: float = 0.8, ngram: int = 5
) -> list[tuple[int, int, float]]:
    """Return (i, j, similarity), i < j, of all texts at least as similar as `threshold`, sorted.

    Similarity is the Jaccard index of the sets of token n-grams, computed from the sets; equal
    normalised texts have 1.0. Only which pairs are compared is left to MinHash signatures, which
    miss a pair at the threshold with a chance of at most one in a million.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold:g}; give a similarity above 0, at most 1")
    if ngram < 1:
        raise ValueError(f"ngram is {ngram}; give at least 1 token")
    same: dict[str, list[int]] = {}
    for number, text in enumerate(texts):
        same.setdefault(normalise(text), []).append(number)
    groups = list(same.values())
    pairs = [(i, j, 1.0) for group in groups for i, j in _combinations(group, group)]
    grams = _to_grams(same, ngram)
    for a, b in _candidates(grams, threshold):
        similarity = _jaccard(grams[a], grams[b])
        if similarity >= threshold:
            pairs += [(i, j, similarity) for i, j in _combinations(groups[a], groups[b])]
    return sorted(pairs)


def _combinations(first: Iterable[int], second: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Every pair of one of each, smaller number first; within one group every pair once."""
    if first is second:
        return ((i, j) for i in first for j in second if i < j)
    return ((min(i, j), max(i, j)) for i in first for j in second)


def _to_grams(normalised: Iterable[str], ngram: int) -> list[Grams]:
    """The distinct n-grams of every text; a text shorter than an n-gram is one by itself.

    An n-gram is named by 64 bits that depend on its tokens alone: among the 5 million of
    CodeContests' statements, the chance that any two share a name is below one in a million.
    """
    hashes: dict[str, int] = {}
    grams = []
    for text in normalised:
        tokens = _TOKEN.findall(text)
        for token in tokens:
            if token not in hashes:
                hashes[token] = int.from_bytes(blake2b(token.encode(), digest_size=8).digest())
        named = [hashes[token] for token in tokens] + [0] * (ngram - len(tokens))
        values = np.array(named, np.uint64)  # [tokens]
        windows = len(values) - ngram + 1
        names = values[:windows]
        for offset in range(1, ngram):
            names = (names ^ names >> _HALF) * _ODD + values[offset : offset + windows]
        grams.append(np.unique(names))
    return grams


def _jaccard(first: Grams, second: Grams) -> float:
    """The share of the n-grams of either text that both have."""
    both = len(np.intersect1d(first, second, assume_unique=True))
    return both / (len(first) + len(second) - both)


def _candidates(grams: Sequence[Grams], threshold: float) -> Iterator[tuple[int, int]]:
    """Pairs of texts that agree in a band of their signatures and in size could be as similar."""
    signatures = MinHash.generator(
        ((names >> _HALF).tolist() for names in grams),
        num_perm=NUM_PERMUTATIONS,
        seed=_SEED,
        hashfunc=int,  # they are hashes already
    )
    index = MinHashLSH(num_perm=NUM_PERMUTATIONS, params=_bands(threshold))
    for text, signature in enumerate(signatures):
        for other in index.query(signature):
            smaller, larger = sorted((len(grams[other]), len(grams[text])))
            if smaller >= threshold * larger:
                yield other, text
        index.insert(text, signature, check_duplication=False)


def _bands(threshold: float) -> tuple[int, int]:
    """Bands and rows a band: the longest bands that miss next to nothing at the threshold."""
    for rows in range(NUM_PERMUTATIONS // 2, 1, -1):
        bands = NUM_PERMUTATIONS // rows
        if (1 - threshold**rows) ** bands <= MAX_MISS:
            return bands, rows
    return NUM_PERMUTATIONS, 1
