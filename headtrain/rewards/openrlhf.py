"""The reward function of OpenRLHF: `--remote_rm_url .../openrlhf.py`."""

from collections.abc import Sequence
from typing import Any

import torch

from featurize.errors import CriticError
from headtrain.rewards import (
    numbers_of_environment,
    reward_of_environment,
    rules_of_environment,
)


def reward_func(
    queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any], **_: Any
) -> dict[str, Any]:
    """Return the rewards of queries, each a prompt with its response behind it.

    The shape is that of OpenRLHF's examples/python/reward_func.py.

    CRITIC_POLICY_TEMPLATE is the policy's template around a problem, with `{prompt}` in its place;
    CRITIC_END are the texts that end a response, one per line.

    Raises:
        CriticError: there is not one prompt per query, a query does not begin with its prompt, or
            the prompt is not in the template.
    """
    if len(queries) != len(prompts):
        counts = f"{len(queries)} queries and {len(prompts)} prompts"
        raise CriticError(f"{counts} are given; give one prompt per query")
    rules = rules_of_environment()
    problems = [
        rules.split_query(query, prompt) for query, prompt in zip(queries, prompts, strict=True)
    ]
    found = numbers_of_environment(
        [one.prompt for one in problems], [one.output for one in problems]
    )
    rewards = torch.tensor(found, dtype=torch.float32)
    # NOTE: `scores` choose prompts by difficulty and must be in [0, 1].
    scale = reward_of_environment(needs_number=True).scale
    scores = rewards.sigmoid() if scale in ("logit", "value") else rewards
    return {"rewards": rewards, "scores": scores, "extra_logs": {"critic_reward": rewards}}
