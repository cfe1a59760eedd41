"""Reward functions of RL frameworks: TRL, verl, OpenRLHF, slime and verifiers."""

from collections.abc import Sequence
from typing import Any

from headtrain.rewards.environment import reward_of_environment
from headtrain.rewards.reward import CriticReward, critic_reward

__all__ = ["CriticReward", "critic_reward", "trl"]


def trl(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
    """Return the rewards for `trl grpo --reward_funcs headtrain.rewards.trl`.

    The head is named by CRITIC_HEAD, or a server by CRITIC_URL.

    Raises:
        CriticError: neither is set, or a prompt is neither text nor messages.
    """
    return reward_of_environment(needs_number=False)(prompts, completions, **columns)
