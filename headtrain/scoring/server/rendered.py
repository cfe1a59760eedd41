"""Finds problem and solution in a text that was rendered with the critic's prompt template."""

from featurize.data.prompt import RESPONSE_MARK, TEMPLATE, TEMPLATE_WITH_INPUT
from featurize.errors import CriticError, shorten
from headtrain.scoring.texts import Problem, TextRules

INPUT_MARK = "\n\n### Input:\n"


def split_rendered(text: str, rules: TextRules) -> Problem:
    """Split a text that was rendered with the critic's own prompt template.

    Raises:
        CriticError: it was not, or where the solution begins is ambiguous.
    """
    for template in (TEMPLATE_WITH_INPUT, TEMPLATE):
        opening = template.partition("{instruction}")[0]
        if text.startswith(opening):
            prompt, output = _split_once(text.removeprefix(opening), RESPONSE_MARK)
            instruction, input_text = prompt, ""
            if template == TEMPLATE_WITH_INPUT:
                instruction, input_text = _split_once(prompt, INPUT_MARK)
            return Problem(
                instruction=instruction, input=input_text, output=rules.to_output(output)
            )
    raise CriticError(
        f"the text {shorten(text)} is not in the critic's prompt template, so where the"
        " solution begins is unknown; send 'messages', use /score, or give the client the"
        " template in docs/serving.md"
    )


def _split_once(text: str, mark: str) -> tuple[str, str]:
    """Split at a mark that must be there exactly once: a guess would score another solution."""
    if text.count(mark) != 1:
        raise CriticError(
            f"the text holds the mark {mark!r} {text.count(mark)} times, so where its parts begin"
            " is unknown; send 'messages' or use /score"
        )
    before, _, after = text.partition(mark)
    return before, after
