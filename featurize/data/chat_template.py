"""Chat templates: renders conversations as a tokenizer's own template, or one from a file, does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from featurize.errors import CriticError
from featurize.settings import PromptSettings

Turn = dict[str, str]
"""A message as templates read it: `role` and `content`."""

PLACE = "\ufdd1"
"""Stands for the text of a message to find what a template writes around it."""

_FIXED_DATE = "{%- macro strftime_now(format) -%}26 Jul 2024{%- endmacro -%}"
"""NOTE: templates may write today's date, and features must not depend on the day. This is the date
that Llama 3's template writes if it does not know the day."""


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """A chat template with its variables."""

    tokenizer: PreTrainedTokenizerBase
    text: str
    variables: Mapping[str, Any]

    def render_prompt(self, turns: Sequence[Turn]) -> str:
        """Render the text before an answer."""
        return self._render(turns, add_generation_prompt=True)

    def render_whole(self, turns: Sequence[Turn], answer: str) -> str:
        """Render a conversation with its answer."""
        whole = [*turns, {"role": "assistant", "content": answer}]
        return self._render(whole, add_generation_prompt=False)

    def _render(self, turns: Sequence[Turn], *, add_generation_prompt: bool) -> str:
        """Render in the sandbox of transformers.

        Raises:
            CriticError: the template refuses the conversation, or is wrong.
        """
        has_date = "strftime_now" in self.text
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    list(turns),
                    chat_template=_FIXED_DATE + self.text if has_date else self.text,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    **self.variables,
                )
            )
        except Exception as error:  # a template is a program: any error of Python's is its own
            roles = ", ".join(turn["role"] for turn in turns)
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise CriticError(
                f"the chat template refuses a conversation of {roles} ({reason}); change the rows,"
                " prompt.system or prompt.chat_template_kwargs, or set prompt.format"
            ) from error


def template_text(settings: PromptSettings, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the text of the chat template that the settings ask for.

    Raises:
        CriticError: the tokenizer has none.
    """
    if settings.template is not None:
        return settings.template
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:
        raise CriticError(
            "prompt.format is chat, but the backbone's tokenizer has no chat template; give one in"
            " a file with prompt.format=jinja and prompt.template=FILE, or use alpaca or raw"
        ) from error
