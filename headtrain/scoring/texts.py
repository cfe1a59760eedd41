"""From a policy's texts and messages to the problem, the solution and the program in them."""

import re
from dataclasses import dataclass

from featurize.errors import CriticError, shorten

PLACE_OF_PROMPT = "{prompt}"
_BLOCK = re.compile(r"^(`{3,}|~{3,})[^\n`]*\n(.*?)^\1[ \t]*$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What datasets have in `instruction` and `input`, and a solution."""

    instruction: str
    input: str
    output: str


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

    def split_query(self, query: str, prompt: str) -> Problem:
        """Take the solution from a text that begins with its prompt.

        Raises:
            CriticError: it does not.
        """
        if not query.startswith(prompt):
            raise CriticError(
                f"the query {shorten(query)} does not begin with its prompt {shorten(prompt)}; send"
                " the prompt as it is in the query, special tokens included"
            )
        output = self.to_output(query[len(prompt) :])
        return Problem(instruction=self.to_problem(prompt), input="", output=output)


def last_block(text: str) -> str | None:
    """Return the text of the last complete fenced block of a Markdown text; None without one."""
    blocks = _BLOCK.findall(text)
    return blocks[-1][1] if blocks else None
