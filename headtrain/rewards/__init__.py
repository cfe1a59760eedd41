"""Reward functions of RL frameworks: TRL, verl, OpenRLHF, slime and verifiers.

Those that trainers name, without a line of Python, read their settings from the environment.
"""

import functools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, cast

from featurize.errors import CriticError, shorten
from headtrain.rewards.reward import CriticReward, RewardScale, critic_reward
from headtrain.scoring.texts import PLACE_OF_PROMPT, TextRules

__all__ = ["CriticReward", "critic_reward", "trl"]

FLOORS: Mapping[str, float] = {"logit": -10.0, "probability": 0.0, "group_rank": 0.0}
"""Reward of a completion that is not scored, where a trainer needs a number. The scale `value` has
none: CRITIC_FLOOR must say it."""

_YES, _NO = ("1", "true", "yes"), ("", "0", "false", "no")


def trl(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
    """Return the rewards for `trl grpo --reward_funcs headtrain.rewards.trl`.

    The head is named by CRITIC_HEAD, or a server by CRITIC_URL.

    Raises:
        CriticError: neither is set, or a prompt is neither text nor messages.
    """
    return reward_of_environment(needs_number=False)(prompts, completions, **columns)


@functools.cache
def reward_of_environment(*, needs_number: bool) -> CriticReward:
    """Make the reward, once per process.

    CRITIC_HEAD or CRITIC_URL, CRITIC_SCALE, CRITIC_FLOOR, CRITIC_FENCED, CRITIC_DEVICE and
    CRITIC_BACKBONE are read.

    Raises:
        CriticError: neither head nor server is named, or a variable has a wrong value.
    """
    scale = os.environ.get("CRITIC_SCALE") or "logit"
    return CriticReward(
        head=os.environ.get("CRITIC_HEAD") or None,
        url=os.environ.get("CRITIC_URL") or None,
        scale=cast(RewardScale, scale),
        floor=_floor(scale, needs_number),
        fenced=_is_yes("CRITIC_FENCED"),
        device=os.environ.get("CRITIC_DEVICE") or "auto",
        backbone=os.environ.get("CRITIC_BACKBONE") or None,
    )


def numbers_of_environment(prompts: Sequence[Any], completions: Sequence[Any]) -> list[float]:
    """Return the reward of each completion, the floor for one that is not scored.

    Raises:
        CriticError: as `reward_of_environment`.
    """
    reward = reward_of_environment(needs_number=True)
    assert reward.floor is not None, "a number is asked for"
    return [reward.floor if one is None else one for one in reward(prompts, completions)]


def rules_of_environment() -> TextRules:
    """Read CRITIC_POLICY_TEMPLATE, and CRITIC_END, one text per line."""
    ends = os.environ.get("CRITIC_END", "").split("\n")
    return TextRules(
        policy_template=os.environ.get("CRITIC_POLICY_TEMPLATE") or PLACE_OF_PROMPT,
        ends=tuple(end for end in ends if end),
    )


def _floor(scale: str, needs_number: bool) -> float | None:
    text = os.environ.get("CRITIC_FLOOR", "")
    if not text:
        if needs_number and scale == "value":
            raise CriticError(
                "CRITIC_SCALE is 'value', which has no lowest reward; set CRITIC_FLOOR"
            )
        return FLOORS.get(scale) if needs_number else None
    try:
        floor = float(text)
    except ValueError:
        floor = math.nan
    if not math.isfinite(floor):
        raise CriticError(f"CRITIC_FLOOR is {shorten(text)}; it must be a number")
    return floor


def _is_yes(name: str) -> bool:
    text = os.environ.get(name, "").lower()
    if text not in (*_YES, *_NO):
        raise CriticError(f"{name} is {shorten(text)}; write 1 or 0")
    return text in _YES
