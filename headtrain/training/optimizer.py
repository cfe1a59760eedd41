"""AdamW over several heads, each with its own learning rate, decay and clipped gradient.

The learning rate has a warm-up, then follows half a cosine or is constant.
"""

import math

import torch

from headtrain.settings import SchedulerSettings

BETAS = (0.9, 0.999)
EPSILON = 1e-8


class BatchedAdamW:
    """torch.optim.AdamW on each row of [heads, parameters], at a quarter of its cost.

    torch.optim.AdamW spends more time on bookkeeping than such small heads on everything else, so
    this calls its fused kernel directly. The kernel divides the gradient by a scale, which clips it
    without another pass.
    """

    def __init__(
        self, parameters: torch.Tensor, gradients: torch.Tensor, weight_decays: list[float]
    ) -> None:
        self.weight_decays = weight_decays
        self.step_count = torch.zeros((), device=parameters.device)
        self.mean = torch.zeros_like(parameters)
        self.square = torch.zeros_like(parameters)
        self._rows = [
            tuple([row] for row in rows)
            for rows in zip(parameters, gradients, self.mean, self.square, strict=True)
        ]

    def step(self, learning_rates: list[float] | torch.Tensor, scales: torch.Tensor | None) -> None:
        """Update every head with its gradient divided by its scale, [heads].

        Learning rates [heads] in a tensor are read when the update runs.
        """
        self.step_count += 1
        for head, (parameters, gradients, mean, square) in enumerate(self._rows):
            torch._fused_adamw_(
                parameters,
                gradients,
                mean,
                square,
                [],
                [self.step_count],
                lr=learning_rates[head],
                beta1=BETAS[0],
                beta2=BETAS[1],
                weight_decay=self.weight_decays[head],
                eps=EPSILON,
                amsgrad=False,
                maximize=False,
                grad_scale=None if scales is None else scales[head],
            )

    def state(self) -> dict[str, torch.Tensor]:
        """Return the state to resume from, on the CPU."""
        tensors = {"step": self.step_count, "mean": self.mean, "square": self.square}
        return {name: tensor.cpu() for name, tensor in tensors.items()}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Restore a state."""
        self.step_count.copy_(state["step"])
        self.mean.copy_(state["mean"])
        self.square.copy_(state["square"])


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
