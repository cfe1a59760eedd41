"""Reward functions for a rubric of verifiers: `Rubric(funcs=[critic_rewards])`."""

import asyncio
from typing import Any

from headtrain.rewards import numbers_of_environment


async def critic_rewards(prompts: list[Any], completions: list[Any]) -> list[float]:
    """Return the rewards of a group; by its plural parameters a rubric knows that it takes one."""
    return await asyncio.to_thread(numbers_of_environment, prompts, completions)


async def critic_reward(prompt: Any, completion: Any) -> float:
    """Return the reward of one completion (verifiers/rubrics/rubric.py)."""
    [found] = await critic_rewards([prompt], [completion])
    return found
