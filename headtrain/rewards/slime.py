"""The reward function of slime: `--custom-rm-path headtrain.rewards.slime.custom_rm`."""

import asyncio
from typing import Any

from headtrain.rewards import numbers_of_environment, rules_of_environment


async def custom_rm(args: Any, sample: Any, **_: Any) -> Any:
    """Return the reward of a sample, or of each of a list (slime/rollout/rm_hub/__init__.py).

    A sample has `prompt`, a text or messages, and `response`, a text. CRITIC_POLICY_TEMPLATE and
    CRITIC_END say what is around a problem and after a response.

    Raises:
        CriticError: a prompt is not in the template.
    """
    rules = rules_of_environment()
    samples = sample if isinstance(sample, list) else [sample]
    texts = [rules.to_sample(one.prompt, one.response) for one in samples]
    prompts, outputs = [text.prompt for text in texts], [text.output for text in texts]
    found = await asyncio.to_thread(numbers_of_environment, prompts, outputs)
    return found if isinstance(sample, list) else found[0]
