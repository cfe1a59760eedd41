"""The terms of a report, each in a sentence or two: its glossary and its tooltips."""

GLOSSARY = {
    "pair": (
        "A correct and an incorrect output of the same problem. The head is right about a pair if "
        "the correct output has the higher value; a tie counts one half."
    ),
    "problem": "A statement with its outputs. Only outputs of one problem are compared.",
    "value": (
        "The number a head gives an output. It has no absolute scale: only differences within a "
        "problem mean something."
    ),
    "value along an output": (
        "The values of its first quarter, half, three quarters and all of it, computed from the "
        "stored segments (featurize.segments). A head that was not trained on prefixes "
        "(training.prefixes) has only learnt to score whole outputs."
    ),
    "accuracy over pairs": (
        "Share of the pairs in the right order, every pair with the same weight: problems with "
        "many outputs dominate. 0.5 is chance."
    ),
    "accuracy over problems": (
        "The accuracy within each problem, averaged over the problems. 0.5 is chance."
    ),
    "margin": (
        "Of a pair: the value of the correct output minus that of the incorrect one. Of a head: "
        "its accuracy minus that of the best shortcut on the same pairs."
    ),
    "gap": (
        "Mean value of the correct outputs minus mean value of the incorrect ones, over all "
        "problems. A gap that is much larger on train than on unseen problems is memorised."
    ),
    "shortcut": (
        'A cheap rule such as "the longer output is correct". A head that is no better than the '
        "best of them may have learnt nothing else."
    ),
    "control": (
        "A baseline whose accuracy must be 0.5, such as noise; otherwise the evaluation is wrong."
    ),
    "author known": (
        "A shortcut: scores an output by its author (a person or a model) alone, by the share of "
        "the author's outputs on train that are correct."
    ),
    "bag of ngrams": (
        "A shortcut: a linear model on which short pieces of text an output has, trained on the "
        "same outputs as the head, without a language model."
    ),
    "likelihood": (
        "Of an output under the backbone: its mean log probability a token (logprob mean) or that "
        "of the whole output (logprob sum). It needs no training, so it is a shortcut."
    ),
    "interval": (
        "A bootstrap interval: the range of the number over resamples of whole problems. Two "
        "numbers of the same pairs are compared by the interval of their difference."
    ),
    "best of n": (
        "One of n outputs of a problem is picked, by the highest value or by another rule; the "
        "pass rate says how often it is correct, averaged over all subsets of n outputs."
    ),
    "P(correct)": ("The probability of being correct: the value, calibrated on train."),
    "ECE": (
        "Expected calibration error: the mean distance between P(correct) and the share of outputs "
        "that are correct, over 15 bins. 0 is perfect."
    ),
    "Brier score": (
        "Mean squared difference of P(correct) and label: 0 is perfect, 0.25 is always saying 0.5."
    ),
    "AUC": (
        "The chance that a correct output scores above an incorrect one of any problem. It also "
        "rewards knowing which problems are easy."
    ),
    "ICC": (
        "Intraclass correlation: the share of the values' variance that is between problems and "
        "not within them."
    ),
    "minimal pair": "A pair whose outputs differ by a small edit, so that style cannot order it.",
}


PICKERS = {
    "any": "a random one",
    "oracle": "a correct one if there is one",
    "shortest": "the one with the fewest tokens",
    "likeliest": "the one with the highest logprob mean",
    "majority": "the one that occurs most often",
    "halved": "half are dropped by their values at half of their tokens; the best of the rest",
}
"""The ways to pick one of n outputs besides the head, by the names of an evaluation."""


def term_id(term: str) -> str:
    """The id of a term's entry on the page."""
    return "term-" + "".join(letter if letter.isalnum() else "-" for letter in term.lower())
