"""An audit in the rows of tables: names and values, and columns where many are alike."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from featurize.data.audit.labels import Slice
from featurize.data.audit.lengths import PairLengths
from featurize.data.audit.overlap import OverlapAudit, SharedProblem
from featurize.data.audit.report import Audit
from featurize.data.audit.texts import TextAudit
from featurize.data.audit.tokens import TokenAudit

MOST_LISTED = 10
"""Examples shown; the JSON has all."""

MOST_SLICES = 15
"""Difficulties, languages or sources shown; the JSON has all."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A table of names and values."""

    title: str
    rows: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """A table with headings."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


def to_tables(audit: Audit) -> Iterator[Rows | Columns]:
    """The tables of an audit, in the order in which they are read."""
    yield _labels(audit)
    yield _lengths(audit)
    for title, slices in (
        ("difficulty", audit.difficulties),
        ("language", audit.languages),
        ("source", audit.sources),
    ):
        if len(slices) > 1:
            yield _slices(title, slices)
    yield from _overlap(audit.split, audit.overlap)
    yield from _texts(audit.texts)
    if audit.tokens is not None:
        yield from _tokens(audit.tokens)


def _labels(audit: Audit) -> Rows:
    labels = audit.labels
    caps = {
        f"pairs with a cap of {cap:,} a problem": left
        for cap, left in labels.pairs_left_by_cap.items()
    }
    rows = {
        "samples": labels.num_samples,
        "correct": labels.num_correct,
        "without a label": labels.num_unlabelled,
        "problems": labels.num_problems,
        "problems with both labels": labels.num_problems_with_both,
        "problems with correct samples only": labels.num_problems_only_correct,
        "problems with incorrect samples only": labels.num_problems_only_incorrect,
        "share of correct, mean of problems": labels.mean_share_correct,
        "problems by it, in tenths": " ".join(f"{number:,}" for number in labels.balance),
        "possible pairs (problem and language)": labels.num_pairs,
        "problems that have pairs": labels.num_problems_with_pairs,
        "pairs in the largest 1% of them": labels.largest_share,
        **caps,
    }
    return Rows(title=f"labels of {audit.split}", rows=rows)


def _lengths(audit: Audit) -> Columns:
    rows = []
    for length in audit.lengths:
        means = (length.mean_correct, length.mean_incorrect)
        rows.append((length.unit, *means, *_of_pairs(length.pairs)))
        bins = f"{length.unit}, in bins of {length.matched_bin}"
        rows.append((bins, None, None, *_of_pairs(length.matched)))
    columns = ("unit", "correct", "incorrect", "pairs", "correct longer by")
    return Columns(
        title="length of outputs, and what it tells alone",
        columns=(*columns, "longer is correct", "over problems"),
        rows=rows,
    )


def _of_pairs(pairs: PairLengths) -> tuple[Any, ...]:
    accuracies = (pairs.longer_over_pairs, pairs.longer_over_problems)
    return (pairs.num_pairs, pairs.mean_difference, *accuracies)


def _slices(title: str, slices: Sequence[Slice]) -> Columns:
    largest = sorted(slices, key=lambda part: -part.num_samples)[:MOST_SLICES]
    left_out = len(slices) - len(largest)
    return Columns(
        title=f"by {title}" + (f" (the largest; {left_out:,} more)" if left_out else ""),
        columns=(title, "samples", "problems", "share of correct", "pairs"),
        rows=[
            (part.name, part.num_samples, part.num_problems, part.share_correct, part.num_pairs)
            for part in slices
            if part in largest
        ],
    )


def _overlap(split: str, overlap: OverlapAudit) -> Iterator[Rows | Columns]:
    rows = {
        "statements": overlap.num_statements,
        "instructions": overlap.num_instructions,
        f"pairs of like problems within {split}": len(overlap.within),
    }
    if overlap.against is not None:
        kinds = Counter(pair.kind for pair in overlap.shared)
        rows |= {
            f"statements of {overlap.against}": overlap.num_statements_against,
            f"instructions of {overlap.against}": overlap.num_instructions_against,
            "instructions in both": overlap.num_shared_instructions,
            f"problems of {split} that are in {overlap.against} too": len(overlap.shared_ids),
            **{f"pairs of these, {kind}": number for kind, number in kinds.items()},
        }
    near = f"near: {overlap.threshold:g} of the {overlap.ngram}-grams"
    yield Rows(title=f"overlap ({near})", rows=rows)
    if overlap.shared:
        yield _problems(f"in {split} and in {overlap.against}", overlap.shared)
    if overlap.within:
        yield _problems(f"twice in {split}", overlap.within)


def _problems(title: str, pairs: Sequence[SharedProblem]) -> Columns:
    shown = f"{title} (first {MOST_LISTED} of {len(pairs):,})" if len(pairs) > 10 else title
    return Columns(
        title=shown,
        columns=("problem", "similarity", "kind", "and"),
        rows=[(p.problem_id, p.similarity, p.kind, p.other_id) for p in pairs[:MOST_LISTED]],
    )


def _texts(texts: TextAudit) -> Iterator[Rows | Columns]:
    yield Rows(
        title="programs",
        rows={
            "samples that repeat a program of their problem": texts.num_repeats,
            "programs labelled both correct and incorrect": len(texts.contradictions),
            "samples of those": texts.num_contradicting_samples,
            "solutions that stand in the statement": len(texts.leaks),
        },
    )
    if texts.contradictions:
        yield Columns(
            title=f"labelled both ways (at most {MOST_LISTED})",
            columns=("problem", "correct", "incorrect"),
            rows=[
                (one.problem_id, ", ".join(one.correct[:3]), ", ".join(one.incorrect[:3]))
                for one in texts.contradictions[:MOST_LISTED]
            ],
        )
    if texts.leaks:
        yield Columns(
            title=f"solutions in the statement (at most {MOST_LISTED})",
            columns=("problem", "sample"),
            rows=[(leak.problem_id, leak.task_id) for leak in texts.leaks[:MOST_LISTED]],
        )


def _tokens(tokens: TokenAudit) -> Iterator[Rows | Columns]:
    yield Columns(
        title=f"tokens before cutting ({tokens.tokenizer})",
        columns=("texts", "number", "tokens", "half have at most", "90%", "99%", "longest"),
        rows=[
            (name, part.num_texts, part.num_tokens, *part.quantiles.values())
            for name, part in (("prompts", tokens.prompts), ("outputs", tokens.outputs))
        ],
    )
    limits = [f"lose > {float(limit):.0%}" for limit in tokens.outputs_cut.num_losing_more_than]
    yield Columns(
        title=f"cut at {tokens.max_length:,} tokens, prompts at {tokens.prompt_limit:,}",
        columns=("texts", "cut", "tokens lost", *limits[1:]),
        rows=[
            (name, part.num_cut, part.num_tokens_lost, *[*part.num_losing_more_than.values()][1:])
            for name, part in (("prompts", tokens.prompts_cut), ("outputs", tokens.outputs_cut))
        ],
    )
    yield Rows(
        title="tokens to compute",
        rows={
            "each prompt and distinct output once": tokens.unique_tokens,
            "each sample with its prompt": tokens.all_tokens,
            "samples with a cut prompt": tokens.num_samples_with_cut_prompt,
            "share of correct outputs cut": tokens.share_cut_of_correct,
            "share of incorrect outputs cut": tokens.share_cut_of_incorrect,
            "outputs without tokens, refused": tokens.num_empty_outputs,
        },
    )
