"""Right and wrong answers in several styles each, every right one against every wrong one.

As RM-Bench counts: cell [i, j] is the share of prompts whose right answer in style i scores
strictly higher than the wrong one in style j. Styles go from plain to fancy, so that below the
diagonal style helps the right answer (easy), and above it the wrong one (hard).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headtrain.metrics.pairwise import ScoredSamples

_ANSWER = re.compile(r"#(correct|incorrect)\.(\d+)$")


@dataclass(frozen=True, kw_only=True)
class StyleAccuracy:
    """Accuracy by how the styles of the two answers compare."""

    num_prompts: int
    easy: float
    """Mean of the cells below the diagonal: the right answer is the fancier one."""
    normal: float
    """Mean of the diagonal: both are in one style."""
    hard: float
    """Mean of the cells above the diagonal: the wrong answer is the fancier one."""

    @property
    def average(self) -> float:
        """Of the three."""
        return (self.easy + self.normal + self.hard) / 3


def measure_styles(scored: ScoredSamples, task_ids: Sequence[str]) -> StyleAccuracy | None:
    """Accuracy by style; None unless every problem has the same styles, two at least, of both.

    `task_ids` [samples] end in `#correct.<style>` or `#incorrect.<style>`.
    """
    found = [_ANSWER.search(task_id) for task_id in task_ids]
    styles = np.array([int(one[2]) if one else -1 for one in found], np.int64)
    num_styles = int(styles.max(initial=-1)) + 1
    problems, codes = np.unique(scored.problem, return_inverse=True)
    if num_styles < 2 or (styles < 0).any() or len(scored) != 2 * num_styles * len(problems):
        return None
    values = np.full((2, len(problems), num_styles), np.nan)  # wrong and right answers
    values[scored.is_correct.astype(np.int64), codes, styles] = scored.scores
    if np.isnan(values).any():
        return None
    wrong, right = values
    cells = (right[:, :, None] > wrong[:, None, :]).mean(0)  # [right style, wrong style]
    return StyleAccuracy(
        num_prompts=len(problems),
        easy=float(cells[np.tril_indices(num_styles, -1)].mean()),
        normal=float(np.diag(cells).mean()),
        hard=float(cells[np.triu_indices(num_styles, 1)].mean()),
    )
