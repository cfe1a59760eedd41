"""The text decoder inside a model, and the list of its blocks."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from featurize.errors import CriticError


def find_decoder(model: PreTrainedModel) -> PreTrainedModel:
    """Return the part of a model that turns token ids into hidden states.

    It is the base of a causal language model, the text tower of a multimodal one, and the inner
    decoder of those that wrap it once more (OPT).

    Raises:
        CriticError: there is no decoder with a list of blocks.
    """
    text = model.config.get_text_config()
    for module in model.modules():
        if not isinstance(module, PreTrainedModel) or find_blocks(module) is None:
            continue
        # The tower of another kind, such as images, has a config of its own.
        if module.config.get_text_config().model_type == text.model_type:
            return module
    raise CriticError(
        f"{type(model).__name__}: no list of {text.num_hidden_layers} blocks in it, so it is not a"
        " plain decoder; give another models.policy.path"
    )


def find_blocks(model: PreTrainedModel) -> str | None:
    """Return the name of the list of blocks among the children of a model; None without one."""
    number = getattr(model.config, "num_hidden_layers", None)
    if number is None:  # of a model with towers; that of its text tower
        number = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    lists = [
        name
        for name, child in model.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == number
    ]
    return lists[0] if lists else None


def hidden_of(output: Any) -> Tensor:
    """Take the hidden states from what a block returns."""
    hidden: Tensor = output[0] if isinstance(output, tuple | list) else output
    return hidden


def check_blocks(
    decoder: PreTrainedModel, blocks: nn.ModuleList, ids: Tensor, **options: Any
) -> None:
    """Run a decoder over ids [1, tokens]: each block must run once, and give a vector per token.

    Args:
        options: more arguments of its forward.

    Raises:
        CriticError: it does not, so its layers have no hidden states of the usual kind.
    """
    name, width = type(decoder).__name__, int(decoder.config.get_text_config().hidden_size)
    runs = [0] * len(blocks)

    def hook(place: int) -> Any:
        # It raises at once: on the meta device a later block may not run.
        def after(_block: Any, _args: Any, output: Any) -> None:
            runs[place] += 1
            shape = list(hidden_of(output).shape)
            if shape != [*ids.shape, width]:
                raise CriticError(
                    f"{name}: a block gives hidden states of shape {shape} where"
                    f" {[*ids.shape, width]} is one vector per token; give another"
                    " models.policy.path"
                )

        return after

    handles = [block.register_forward_hook(hook(place)) for place, block in enumerate(blocks)]
    try:
        with torch.inference_mode():
            decoder(input_ids=ids, use_cache=False, **options)
    finally:
        for handle in handles:
            handle.remove()
    if set(runs) != {1}:
        raise CriticError(
            f"{name}: its blocks run {min(runs)} to {max(runs)} times over a text, so its layers"
            " have no hidden states of their own; give another models.policy.path"
        )


@torch.inference_mode()
def find_final_norm(decoder: PreTrainedModel, blocks: nn.ModuleList, ids: Tensor) -> nn.Module:
    """Return the module between the last block and the output of a decoder.

    It is recognised by running the decoder over ids [1, tokens]: it gets what the last block
    gives, and what it gives is the output.

    Raises:
        CriticError: no single module does that.
    """
    last: list[Tensor] = []
    handle = blocks[-1].register_forward_hook(lambda *args: last.append(hidden_of(args[-1])))
    try:
        final = decoder(input_ids=ids, use_cache=False).last_hidden_state
    finally:
        handle.remove()
    if torch.equal(final, last[0]):
        return nn.Identity()
    for child in decoder.children():
        if "norm" in type(child).__name__.lower() and torch.equal(child(last[0]), final):
            return child
    raise CriticError(
        f"{type(decoder).__name__}: more than one norm follows its last block, so the last layer"
        " cannot be made from states before the norm; name other featurize.layers"
    )
