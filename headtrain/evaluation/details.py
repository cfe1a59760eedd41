"""The closer look at the split that is judged: what could explain the head's accuracy."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from headtrain.evaluation.results import BestOfN, Control, Details, Slice, Verdict
from headtrain.evaluation.samples.facts import SampleFacts
from headtrain.evaluation.shortcuts.controls import (
    PROMPT_ONLY,
    SHUFFLED,
    check_prompt_only,
    check_shuffled,
    prompt_only_scores,
    shuffled_tally,
)
from headtrain.evaluation.shortcuts.length import rank_correlations
from headtrain.evaluation.shortcuts.verdict import judge_margin
from headtrain.evaluation.slices.lengths import PairWindows, difference_edges
from headtrain.evaluation.slices.minimal import near_tally
from headtrain.evaluation.slices.problems import group_counts, group_problems, problem_values
from headtrain.evaluation.split import HEAD, MeasuredSplit
from headtrain.metrics.accuracies import PairTally, resample_accuracies
from headtrain.metrics.best_of_n import (
    choose_sizes,
    mean_rates,
    oracle_rates,
    pass_rates,
)
from headtrain.metrics.bootstrap import Interval, JointSums, ratio, resample_sums
from headtrain.metrics.calibration import Decision, reliability
from headtrain.metrics.majority import majority_rates
from headtrain.metrics.pairwise import ScoredSamples, pairwise_counts
from headtrain.settings import EvaluationSettings


@dataclass(frozen=True, kw_only=True)
class Look:
    """Looks at one measured split from every side."""

    split: MeasuredSplit
    facts: SampleFacts
    settings: EvaluationSettings
    seed: int

    def details(self, decision: Decision | None) -> Details:
        """All of it."""
        left_out = dict(self.facts.left_out)
        matched = self._matched()
        if matched is None:
            left_out["length_matched"] = "no two outputs of a problem are of about one length"
        near = self._near()
        if near is None and self.facts.near is not None:
            left_out["minimal_pairs"] = "no two outputs of a problem are a small edit apart"
        return Details(
            controls=self._controls(),
            verdict=self._verdict(),
            length_correlation=self._length_correlation(),
            length_matched=matched,
            minimal_pairs=near,
            breakdowns={**self._by_problem(), "length_difference": self._by_length()},
            best_of_n=self._best_of_n(left_out),
            reliability=()
            if decision is None
            else tuple(
                reliability(decision.calibration.probability(self._head.scores), self._labels)
            ),
            left_out=left_out,
        )

    @property
    def _head(self) -> ScoredSamples:
        return self.split.judges[HEAD]

    @property
    def _labels(self) -> npt.NDArray[np.bool_]:
        return self._head.is_correct

    def _slice(self, name: str, tallies: Mapping[str, PairTally]) -> Slice | None:
        """Judge some of the pairs; None when there are none."""
        first = next(iter(tallies.values()))
        if not first.total:
            return None
        found = resample_accuracies(
            tallies, rounds=self.settings.bootstrap_rounds, seed=self.split.stream
        )
        return Slice(
            name=name,
            num_pairs=first.total,
            num_problems=first.num_problems,
            judges={
                judge: accuracies.result(self.settings.confidence)
                for judge, accuracies in found.items()
            },
        )

    def _controls(self) -> dict[str, Control]:
        prompts = self._head.with_scores(prompt_only_scores(self._head))
        found = resample_accuracies(
            {
                PROMPT_ONLY: PairTally.of(pairwise_counts(prompts)),
                SHUFFLED: shuffled_tally(self._head, seed=self.seed),
            },
            rounds=self.settings.bootstrap_rounds,
            seed=self.split.stream,
        )
        confidence = self.settings.confidence
        return {
            PROMPT_ONLY: check_prompt_only(found[PROMPT_ONLY], confidence),
            SHUFFLED: check_shuffled(found[SHUFFLED], confidence),
        }

    def _verdict(self) -> Verdict | None:
        shortcuts = {name: found for name, found in self.split.accuracies.items() if name != HEAD}
        if not shortcuts:
            return None
        return judge_margin(
            self._head,
            self.split.judges,
            shortcuts,
            head_accuracies=self.split.accuracies[HEAD],
            rounds=self.settings.bootstrap_rounds,
            confidence=self.settings.confidence,
            seed=self.split.stream,
        )

    def _length_correlation(self) -> Interval | None:
        correlations = rank_correlations(self._head)
        if not len(correlations):
            return None
        columns = np.stack([correlations, np.ones_like(correlations)], axis=1)
        sums = resample_sums(columns, rounds=self.settings.bootstrap_rounds, seed=self.split.stream)
        return sums.apply(ratio(0, 1)).interval(self.settings.confidence)

    def _matched(self) -> Slice | None:
        windows = PairWindows.of(self._head)
        window = windows.matched(self.settings.length_tolerance)
        return self._slice(
            f"lengths within {self.settings.length_tolerance:.0%}",
            {name: windows.tally(judge, [window])[0] for name, judge in self.split.judges.items()},
        )

    def _near(self) -> Slice | None:
        near = self.facts.near
        if near is None:
            return None
        return self._slice(
            f"edits within {self.settings.minimal_edit:.0%} of the characters",
            {name: near_tally(judge, near) for name, judge in self.split.judges.items()},
        )

    def _by_length(self) -> tuple[Slice, ...]:
        """The head by how much longer the correct output is; length says everything itself."""
        edges: list[int | None] = [None, *difference_edges(self._head, seed=self.seed), None]
        windows = PairWindows.of(self._head)
        bounds = list(pairwise(edges))
        tallies = windows.tally(self._head, [windows.differing_by(*pair) for pair in bounds])
        slices = [
            self._slice(_difference_name(low, high), {HEAD: tally})
            for (low, high), tally in zip(bounds, tallies, strict=True)
        ]
        return tuple(part for part in slices if part is not None)

    def _by_problem(self) -> dict[str, tuple[Slice, ...]]:
        """All judges by what is known of the problem; an attribute nobody has is left out."""
        counts = pairwise_counts(self._head)
        _, code = np.unique(self._head.problem, return_inverse=True)
        has_pairs = np.isin(np.unique(self._head.problem), counts.problem)
        groups = {
            name: group_problems(problem_values(values, self._head.problem)[has_pairs])
            for name, values in self.facts.attributes.items()
            if any(value is not None for value in values)
        }
        groups["candidates"] = group_counts(np.bincount(code)[has_pairs])
        return {
            name: tuple(
                part
                for kind, mask in kinds.items()
                if (part := self._slice(kind, _masked(self.split.tallies, mask))) is not None
            )
            for name, kinds in groups.items()
        }

    def _best_of_n(self, left_out: dict[str, str]) -> BestOfN | None:
        _, code = np.unique(self._head.problem, return_inverse=True)
        num_candidates = np.bincount(code)
        sizes = choose_sizes(num_candidates)
        kept = num_candidates >= sizes[-1]
        rates = {
            HEAD: pass_rates(self._head, sizes),
            "any": mean_rates(self._head, sizes),
            "oracle": oracle_rates(self._head, sizes),
            "shortest": pass_rates(
                self._head.with_scores(-self._head.output_tokens.astype(np.float64)), sizes
            ),
        }
        if "logprob_mean" in self.split.judges:
            rates["likeliest"] = pass_rates(self.split.judges["logprob_mean"], sizes)
        outputs = self.facts.outputs
        if outputs is None or len(np.unique(np.stack([code, outputs]), axis=1).T) == len(code):
            left_out["best_of_n/majority"] = "no two outputs of a problem are the same"
        else:
            rates["majority"] = majority_rates(self._head, outputs, sizes, seed=self.seed)
        sums = JointSums()
        for picker, rate in rates.items():
            for place, n in enumerate(sizes):
                columns = np.stack([rate[kept, place], np.ones(int(kept.sum()))], axis=1)
                sums.add(f"{picker} {n}", columns, ratio(0, 1))
        found = sums.resample(rounds=self.settings.bootstrap_rounds, seed=self.split.stream)
        return BestOfN(
            num_problems=int(kept.sum()),
            num_problems_left_out=int((~kept).sum()),
            n=sizes,
            pickers={
                picker: tuple(
                    found[f"{picker} {n}"].interval(self.settings.confidence) for n in sizes
                )
                for picker in rates
            },
        )


def _masked(tallies: Mapping[str, PairTally], mask: npt.NDArray[np.bool_]) -> dict[str, PairTally]:
    return {
        name: PairTally(wins=tally.wins[mask], num_pairs=tally.num_pairs[mask])
        for name, tally in tallies.items()
    }


def _difference_name(low: int | None, high: int | None) -> str:
    """`-12 to -3`: tokens by which the correct output is longer."""
    if low is None:
        return "all" if high is None else f"below {high}"
    if high is None:
        return f"{low} and more"
    return f"{low}" if high - low == 1 else f"{low} to {high - 1}"
