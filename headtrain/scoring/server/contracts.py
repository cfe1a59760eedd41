"""What a request is: samples to judge, and a reply made of the judgements."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from featurize.errors import CriticError
from headtrain.scoring.along import By
from headtrain.scoring.judged import Judged, Scale
from headtrain.scoring.samples import Output, Prompt
from headtrain.scoring.texts import TextRules

Messages: TypeAlias = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class TextSample:
    """A prompt and one output, as they came."""

    prompt: Prompt
    output: Output
    input: str = ""
    along: By | None = None
    """Where prefixes end whose values are wanted too."""
    is_rendered: bool = False
    """It was in one text, in the critic's own template, and has been split."""


Asked: TypeAlias = Sequence[TextSample | ValueError]
"""The samples of a request, and in place of a bad one what is wrong with it."""

Answers: TypeAlias = Sequence[Judged | ValueError]
"""The judgement of each sample, or why there is none."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What replies need to know of the server."""

    model: str
    created: int
    """Seconds since 1970 when the server started."""
    scale: Scale
    rules: TextRules


class Contract(Protocol):
    """A parsed request body of an endpoint."""

    def samples(self, context: Context) -> Asked:
        """Return the samples to judge.

        Raises:
            ValueError: the request as a whole makes no sense.
        """
        ...

    def reply(self, answers: Answers, context: Context) -> Any:
        """Return the body of the reply, for JSON; at least one sample was judged, or none asked.

        Raises:
            ValueError: the reply needs a calibration that the head does not have.
        """
        ...


def at_most_one(**fields: object) -> None:
    """Check that of several names of the same thing a request has one or none.

    Raises:
        CriticError: it has two; one would be ignored.
    """
    given = [repr(name) for name, value in fields.items() if value is not None]
    if len(given) > 1:
        raise CriticError(f"the request has {' and '.join(given)}; give one of them")


def errors_of(answers: Answers) -> dict[str, Any]:
    """Return the field that says which samples were not judged; nothing if all were."""
    if not any(isinstance(answer, ValueError) for answer in answers):
        return {}
    return {"errors": [str(one) if isinstance(one, ValueError) else None for one in answers]}


def usage_of(answers: Answers) -> Mapping[str, int]:
    """Count tokens as OpenAI's replies do."""
    tokens = sum(one.num_tokens for one in answers if isinstance(one, Judged))
    return {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
