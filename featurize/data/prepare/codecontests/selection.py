"""Selects the solutions of a contest problem that become samples, and counts the others."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self, TypeAlias

from featurize.data.prepare.codecontests.problems import ContestProblem, Solution
from featurize.data.prepare.settings import CodeContestsSettings
from featurize.errors import CriticError
from featurize.settings import BackboneSettings

if TYPE_CHECKING:  # it imports transformers, which takes seconds and is rarely needed
    from transformers import PreTrainedTokenizerBase

    from featurize.data.formats import Alpaca

Solutions: TypeAlias = list[Solution]
Fits: TypeAlias = Callable[[str, Solutions], Solutions]
"""Selects the solutions that, behind the statement, have no more tokens than allowed."""

NO_STATEMENT = "without a statement"
NO_SOLUTIONS = "without solutions"


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The solutions of one problem."""

    kept: Solutions  # in an order that is independent of their labels
    left_out: Counter[str]  # reason -> solutions
    refusal: str | None  # why no solution is kept; None: some are


def select(
    problem: ContestProblem, settings: CodeContestsSettings, *, seed: int, fits: Fits | None
) -> Selection:
    """Apply the filters in order; each solution is counted at the first that removes it."""
    kept = sorted(problem.solutions, key=lambda solution: _rank(problem, solution, seed))
    left_out: Counter[str] = Counter()
    if not problem.statement.strip():
        left_out[f"of problems {NO_STATEMENT}"] = len(kept)
        return Selection(kept=[], left_out=+left_out, refusal=NO_STATEMENT)
    refusal = None if kept else NO_SOLUTIONS
    for step in _filters(problem, settings, fits):
        rest = step.apply(kept)
        left_out[step.reason] += len(kept) - len(rest)
        if kept and not rest:
            refusal = step.refusal
        kept = rest
    return Selection(kept=kept, left_out=+left_out, refusal=refusal)


class _Filter(NamedTuple):
    """One condition that a solution has to meet."""

    reason: str  # "12 samples ..." that do not
    refusal: str  # "3 problems ..." of which it left no solution
    apply: Callable[[Solutions], Solutions]


def _filters(
    problem: ContestProblem, settings: CodeContestsSettings, fits: Fits | None
) -> Iterator[_Filter]:
    """Yield the filters: the cheap ones first, the random draw last."""
    languages, max_chars = settings.languages, settings.max_chars
    if languages is not None:
        yield _Filter(
            "in other languages",
            "without solutions in the languages asked for",
            lambda solutions: [s for s in solutions if s.language in languages],
        )
    yield _Filter("empty", NO_SOLUTIONS, lambda solutions: [s for s in solutions if s.text.strip()])
    if max_chars is not None:
        yield _Filter(
            f"longer than {max_chars:,} characters",
            f"without solutions of at most {max_chars:,} characters",
            lambda solutions: [s for s in solutions if len(s.text) <= max_chars],
        )
    if not settings.keep_duplicates:
        yield _Filter(
            "both correct and incorrect", "with contradicting labels only", _without_contradictions
        )
        yield _Filter("that are duplicates", NO_SOLUTIONS, _without_repeats)
    if fits is not None:
        limit = f"{settings.max_tokens:,} tokens"
        yield _Filter(
            f"of more than {limit} with the statement",
            f"without solutions that fit into {limit}",
            lambda solutions: fits(problem.statement, solutions),
        )
    if settings.require_both_labels:
        yield _Filter(
            "of a problem and language with one label only",
            "without both labels in a language",
            _with_both_labels,
        )
    if settings.max_solutions is not None:
        most = settings.max_solutions
        yield _Filter(
            f"beyond {most:,} of a problem, language and label",
            NO_SOLUTIONS,
            lambda solutions: _at_most(most, solutions),
        )


def _rank(problem: ContestProblem, solution: Solution, seed: int) -> bytes:
    """Hash a solution, independent of what else is selected."""
    content = f"{seed}\0{problem.problem_id}\0{solution.language}\0{solution.text}"
    # Text from Parquet is UTF-8, so it has no lone surrogates.
    return blake2b(content.encode(), digest_size=8).digest()


def _without_contradictions(solutions: Solutions) -> Solutions:
    """Remove programs with both labels: which of the labels is wrong is not known."""
    labels = defaultdict(set)
    for solution in solutions:
        labels[solution.language, solution.text].add(solution.is_correct)
    return [s for s in solutions if len(labels[s.language, s.text]) == 1]


def _without_repeats(solutions: Solutions) -> Solutions:
    return list({(s.language, s.text, s.is_correct): s for s in reversed(solutions)}.values())[::-1]


def _with_both_labels(solutions: Solutions) -> Solutions:
    """Keep the languages with both labels, since pairs are made within a language."""
    labels = defaultdict(set)
    for solution in solutions:
        labels[solution.language].add(solution.is_correct)
    return [s for s in solutions if len(labels[s.language]) == 2]


def _at_most(limit: int, solutions: Solutions) -> Solutions:
    """Keep the first of each language and label; their order is random by the seed."""
    taken: Counter[tuple[str, bool]] = Counter()
    kept = []
    for solution in solutions:
        taken[solution.language, solution.is_correct] += 1
        if taken[solution.language, solution.is_correct] <= limit:
            kept.append(solution)
    return kept


@dataclass(frozen=True, kw_only=True)
class TokenLimit:
    """Counts tokens as featurize does; a statement is encoded once for all its solutions."""

    format: "Alpaca"
    max_tokens: int  # of a solution and its statement
    digest: str  # of the tokenizer

    @classmethod
    def load(cls, backbone: BackboneSettings, cache_dir: Path, max_tokens: int) -> Self:
        """Limit the tokens of prompt and output together, by the tokenizer of `backbone`."""
        from featurize.model.device import resolve_device, resolve_dtype
        from featurize.model.source import find_backbone, load_tokenizer

        # On the device of this machine, which often has no GPU.
        dtype = resolve_dtype(backbone.dtype, resolve_device("auto"))
        source = find_backbone(backbone, cache_dir, dtype)
        return cls.create(load_tokenizer(source, backbone), source.tokenizer_digest, max_tokens)

    @classmethod
    def create(cls, tokenizer: "PreTrainedTokenizerBase", digest: str, max_tokens: int) -> Self:
        """Limit the tokens by a loaded tokenizer.

        Raises:
            CriticError: the limit leaves no room for a statement.
        """
        from featurize.data.formats import Alpaca

        template = Alpaca(tokenizer)
        if max_tokens < len(template.tail) + 2:
            raise CriticError(
                f"prepare.codecontests.max_tokens is {max_tokens}; the response mark alone has "
                f"{len(template.tail)} tokens: raise it, or write null for no limit"
            )
        return cls(format=template, max_tokens=max_tokens, digest=digest)

    def __call__(self, statement: str, solutions: list[Solution]) -> list[Solution]:
        """Select the solutions that fit into the limit behind their statement."""
        from featurize.data.formats import Prompt

        prompt = self.format.read(Prompt(statement))
        room = self.max_tokens - len(prompt.ids)
        if room < 1:
            return []
        # A token has at least one ASCII character, except one that may begin the text: most
        # solutions are short enough to need no tokenizer, which takes most of the time.
        unsure = [s for s in solutions if not (s.text.isascii() and len(s.text) < room)]
        if not unsure:
            return solutions
        counts = self.format.count([(prompt, [s.text for s in unsure])])
        too_long = {id(s) for s, count in zip(unsure, counts, strict=True) if count > room}
        return [s for s in solutions if id(s) not in too_long]
