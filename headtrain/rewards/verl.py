"""The reward function of verl: `custom_reward_function.path=.../verl.py name=compute_score`."""

import os
from collections.abc import Mapping
from typing import Any

from featurize.errors import CriticError, shorten
from headtrain.rewards import numbers_of_environment

PROMPT_KEYS = ("prompt", "question", "problem", "instruction")
"""Where the problem may be in `extra_info`; CRITIC_PROMPT_KEY names another key."""


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    **_: Any,
) -> float:
    """Return the reward of one solution (verl/experimental/reward_loop/reward_manager/naive.py).

    verl passes no prompt: the dataset must have the problem in `extra_info`.

    Raises:
        CriticError: `extra_info` does not have it.
    """
    problem = _problem_in(extra_info or {})
    [reward] = numbers_of_environment([problem], [solution_str])
    return reward


def _problem_in(extra_info: Mapping[str, Any]) -> Any:
    if not isinstance(extra_info, Mapping):
        raise CriticError(f"extra_info is {shorten(extra_info)}; it must be an object with keys")
    named = os.environ.get("CRITIC_PROMPT_KEY")
    keys = (named,) if named else PROMPT_KEYS
    found = next((extra_info[key] for key in keys if extra_info.get(key) is not None), None)
    if found is None:
        raise CriticError(
            f"extra_info has the keys {sorted(map(str, extra_info))} and none of {list(keys)}; put"
            " the problem there when you prepare the data, or name its key in CRITIC_PROMPT_KEY"
        )
    return found
