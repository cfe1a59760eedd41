"""What callers send to be scored, and the problem, solution and program in a policy's texts."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from featurize.errors import CriticError, shorten
from headtrain.scoring.verdict import By

Messages: TypeAlias = Sequence[Mapping[str, object]]
"""Chat messages with `role` and `content`."""

Prompt: TypeAlias = str | Messages | Sequence[int]
"""The problem as datasets have it in `instruction`, chat messages, or ids of the whole prompt."""

Output: TypeAlias = str | Sequence[int]
"""A candidate solution, or its token ids."""

PLACE_OF_PROMPT = "{prompt}"
_BLOCK = re.compile(r"^(`{3,}|~{3,})[^\n`]*\n(.*?)^\1[ \t]*$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class TextSample:
    """A prompt and one output, as they came."""

    prompt: Prompt
    output: Output
    input: str = ""
    """What datasets have in `input`."""
    along: By | None = None
    """Where prefixes end whose values are wanted too."""
    is_rendered: bool = False
    """It was in one text, in the critic's own template, and has been split."""


@dataclass(frozen=True, kw_only=True)
class TextRules:
    """How a policy's texts become a problem and a solution."""

    policy_template: str = PLACE_OF_PROMPT
    """The policy's chat template around a problem, with `{prompt}` in its place."""
    ends: tuple[str, ...] = ()
    """Texts that end a solution, such as `<|im_end|>`; removed from its end."""

    def __post_init__(self) -> None:
        """Check the template.

        Raises:
            CriticError: it does not have exactly one place for the problem.
        """
        if self.policy_template.count(PLACE_OF_PROMPT) != 1:
            raise CriticError(
                f"--policy-template is {shorten(self.policy_template)}; it must hold"
                f" {PLACE_OF_PROMPT} exactly once"
            )

    def to_problem(self, prompt: str) -> str:
        """Remove the policy's template around a problem.

        Raises:
            CriticError: the prompt is not in that template.
        """
        before, after = self.policy_template.split(PLACE_OF_PROMPT)
        is_inside = prompt.startswith(before) and prompt.endswith(after)
        if not is_inside or len(prompt) < len(before) + len(after):
            raise CriticError(
                f"the prompt {shorten(prompt)} is not in the template of --policy-template"
                f" ({shorten(self.policy_template)}); start the server with the template your"
                " policy uses"
            )
        return prompt[len(before) : len(prompt) - len(after)]

    def to_output(self, text: str) -> str:
        """Remove the texts that end a solution, as often as they come."""
        while end := next((end for end in self.ends if end and text.endswith(end)), ""):
            text = text.removesuffix(end)
        return text

    def to_sample(self, prompt: str | Messages, response: str) -> TextSample:
        """Take the problem from a prompt, of which messages need no template.

        Raises:
            CriticError: a text is not in the template.
        """
        problem = self.to_problem(prompt) if isinstance(prompt, str) else prompt
        return TextSample(prompt=problem, output=self.to_output(response))

    def split_query(self, query: str, prompt: str) -> TextSample:
        """Take the solution from a text that begins with its prompt.

        Raises:
            CriticError: it does not, or the prompt is not in the template.
        """
        if not query.startswith(prompt):
            raise CriticError(
                f"the query {shorten(query)} does not begin with its prompt {shorten(prompt)}; send"
                " the prompt as it is in the query, special tokens included"
            )
        return self.to_sample(prompt, query[len(prompt) :])


def last_block(text: str) -> str | None:
    """Return the text of the last complete fenced block of a Markdown text; None without one."""
    blocks = _BLOCK.findall(text)
    return blocks[-1][1] if blocks else None
