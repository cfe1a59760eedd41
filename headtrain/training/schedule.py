"""The learning rate schedule: a warm-up, then half a cosine or a constant."""

import math

from headtrain.settings import SchedulerSettings


def learning_rate_factor(step: int, num_steps: int, settings: SchedulerSettings) -> float:
    """Return the share of the peak learning rate at optimizer step `step` of num_steps, from 0.

    With w = ceil(num_steps * warmup_ratio) warm-up steps:
        step < w:  (step + 1) / w
        cosine:    m + (1 - m) * (1 + cos(pi * (step - w) / (num_steps - w))) / 2,  m = min_lr_ratio
        constant:  1
    Steps past the end keep the last value.
    """
    # NOTE: step + 1, while transformers starts from 0: a run of one step must change the weights.
    num_warmup = math.ceil(num_steps * settings.warmup_ratio)
    if step < num_warmup:
        return (step + 1) / num_warmup
    if settings.type == "constant":
        return 1.0
    progress = min(1.0, (step - num_warmup) / max(1, num_steps - num_warmup))
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return settings.min_lr_ratio + (1 - settings.min_lr_ratio) * cosine
