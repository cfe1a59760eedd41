"""Near-duplicate texts: equal except for case, spacing and a few words."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import TypeAlias

import numpy as np
from datasketch import MinHash, MinHashLSH
from numpy.typing import NDArray

from featurize.errors import CriticError

NUM_PERMUTATIONS = 128
MAX_MISS = 1e-6  # probability that a pair exactly at the threshold is not compared
_SEED = 1
# Constants of the multiplicative hash of n-grams: 2**64 / golden ratio, and half a word.
_ODD = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)

# In scripts without spaces every character is a token; else a sentence would be one token.
_UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+|[^\w\s]")

Grams: TypeAlias = NDArray[np.uint64]  # distinct n-grams of one text, ascending, [n-grams]


def normalise(text: str) -> str:
    """Fold Unicode forms, case and white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def near_duplicates(
    texts: Sequence[str], *, threshold: float = 0.8, ngram: int = 5
) -> list[tuple[int, int, float]]:
    """Return (i, j, similarity), i < j, of all pairs at least as similar as `threshold`, sorted.

    Similarity is the exact Jaccard index |A & B| / |A | B| of the sets of token n-grams; equal
    normalised texts have 1.0. MinHash signatures only choose the pairs to compare; they miss a
    pair at the threshold with a probability of at most MAX_MISS.

    Raises:
        CriticError: `threshold` is not in (0, 1], or `ngram` is below 1.
    """
    if not 0 < threshold <= 1:
        raise CriticError(f"threshold is {threshold:g}; give a similarity above 0, at most 1")
    if ngram < 1:
        raise CriticError(f"ngram is {ngram}; give at least 1 token")
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
    """Pair each of one with each of the other, smaller number first; within a group, each once."""
    if first is second:
        return ((i, j) for i in first for j in second if i < j)
    return ((min(i, j), max(i, j)) for i in first for j in second)


def _to_grams(normalised: Iterable[str], ngram: int) -> list[Grams]:
    """Hash the distinct n-grams of every text; a shorter text is padded to one n-gram.

    A hash has 64 bits: among the 5 million n-grams of CodeContests' statements, the probability
    of any collision is below one in a million.
    """
    hashes: dict[str, int] = {}
    grams = []
    for text in normalised:
        tokens = _TOKEN.findall(text)
        for token in tokens:
            if token not in hashes:
                hashes[token] = int.from_bytes(blake2b(token.encode(), digest_size=8).digest())
        padded = [hashes[token] for token in tokens] + [0] * (ngram - len(tokens))
        values = np.array(padded, np.uint64)  # [tokens]
        windows = len(values) - ngram + 1
        combined = values[:windows]
        for offset in range(1, ngram):
            combined = (combined ^ combined >> _HALF) * _ODD + values[offset : offset + windows]
        grams.append(np.unique(combined))
    return grams


def _jaccard(first: Grams, second: Grams) -> float:
    """Compute |A & B| / |A | B|."""
    both = len(np.intersect1d(first, second, assume_unique=True))
    return both / (len(first) + len(second) - both)


def _candidates(grams: Sequence[Grams], threshold: float) -> Iterator[tuple[int, int]]:
    """Yield pairs that agree in a band of their signatures and whose sizes allow the threshold."""
    signatures = MinHash.generator(
        ((hashes >> _HALF).tolist() for hashes in grams),
        num_perm=NUM_PERMUTATIONS,
        seed=_SEED,
        hashfunc=int,  # the n-grams are hashes already
    )
    index = MinHashLSH(num_perm=NUM_PERMUTATIONS, params=_bands(threshold))
    for text, signature in enumerate(signatures):
        for other in index.query(signature):
            smaller, larger = sorted((len(grams[other]), len(grams[text])))
            if smaller >= threshold * larger:
                yield other, text
        index.insert(text, signature, check_duplication=False)


def _bands(threshold: float) -> tuple[int, int]:
    """Return the number of bands and rows per band: the longest bands within MAX_MISS.

    A pair of similarity s agrees in no band with probability (1 - s**rows)**bands.
    """
    for rows in range(NUM_PERMUTATIONS // 2, 1, -1):
        bands = NUM_PERMUTATIONS // rows
        if (1 - threshold**rows) ** bands <= MAX_MISS:
            return bands, rows
    return NUM_PERMUTATIONS, 1
