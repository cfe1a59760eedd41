"""The template of Alpaca, and the token ids of a text."""

import hashlib
from dataclasses import dataclass

TEMPLATE_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
TEMPLATE = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)
"""The templates of Stanford Alpaca (github.com/tatsu-lab/stanford_alpaca, train.py)."""

RESPONSE_MARK = "\n\n### Response:\n"


def render_prompt(instruction: str, input_text: str = "") -> str:
    """Render the text before the output."""
    # NOTE: replace, not str.format: statements are full of braces.
    if not input_text:
        return TEMPLATE.replace("{instruction}", instruction)
    before, after = TEMPLATE_WITH_INPUT.split("{instruction}")
    return before + instruction + after.replace("{input}", input_text)


def template_digest() -> str:
    """Hash both templates."""
    return hashlib.blake2b((TEMPLATE + TEMPLATE_WITH_INPUT).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, kw_only=True)
class TokenIds:
    """The token ids of one text, truncated if necessary."""

    ids: tuple[int, ...]
    is_truncated: bool
