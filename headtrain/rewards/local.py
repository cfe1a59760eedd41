"""Judges completions in this process, with one critic per head."""

import functools
from collections.abc import Sequence

from headtrain.rewards.client import Answers, Group, Prompt
from headtrain.scoring.critic import Critic
from headtrain.scoring.samples import Sample


def judge_here(
    head: str, device: str, backbone: str | None, groups: Sequence[Group]
) -> list[Answers]:
    """Judge the outputs of all prompts in one run of the backbone.

    Raises:
        ValueError: the head cannot be loaded, or the features are NaN or inf.
    """
    critic = load_once(head, device, backbone)
    encoded = [
        [_encode(critic, group.prompt, output) for output in group.outputs] for group in groups
    ]
    samples = [one for ones in encoded for one in ones if isinstance(one, Sample)]
    judged = iter(critic.judge_samples(samples) if samples else [])
    return [[next(judged) if isinstance(one, Sample) else one for one in ones] for ones in encoded]


@functools.cache
def load_once(head: str, device: str, backbone: str | None) -> Critic:
    """Load a critic, once per process."""
    return Critic.load(head, device=device, backbone=backbone)


def _encode(critic: Critic, prompt: Prompt, output: str) -> Sample | ValueError:
    try:
        return critic.samples.encode_one(prompt, output)
    except ValueError as error:
        return error
