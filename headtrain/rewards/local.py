"""Judges completions in this process, with one critic per head."""

import functools

from headtrain.rewards.client import Answers, Groups
from headtrain.scoring.critic import Critic
from headtrain.scoring.samples import Sample


def judge_here(head: str, device: str, backbone: str | None, groups: Groups) -> Answers:
    """Judge the outputs of all prompts in one run of the backbone.

    Raises:
        ValueError: the head cannot be loaded, or the features are NaN or inf.
    """
    critic = load_once(head, device, backbone)
    encoded = {
        problem: [_encode(critic, problem, output) for output in outputs]
        for problem, outputs in groups.items()
    }
    samples = [one for ones in encoded.values() for one in ones if isinstance(one, Sample)]
    judged = iter(critic.judge_samples(samples) if samples else [])
    return {
        problem: [next(judged) if isinstance(one, Sample) else one for one in ones]
        for problem, ones in encoded.items()
    }


@functools.cache
def load_once(head: str, device: str, backbone: str | None) -> Critic:
    """Load a critic, once per process."""
    return Critic.load(head, device=device, backbone=backbone)


def _encode(critic: Critic, problem: str, output: str) -> Sample | ValueError:
    try:
        return critic.encode_one(problem, output)
    except ValueError as error:
        return error
