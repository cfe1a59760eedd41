"""The critic's own endpoints: scores of outputs, and candidates in order."""

from typing import Any

import msgspec
import numpy as np

from featurize.errors import CriticError
from headtrain.scoring.along import to_by
from headtrain.scoring.judged import Judged
from headtrain.scoring.samples import Output, Prompt
from headtrain.scoring.scorer import rank_within
from headtrain.scoring.server.contracts import (
    Answers,
    Asked,
    Context,
    Messages,
    TextSample,
    at_most_one,
    errors_of,
    usage_of,
)


class ScoreRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /score`: a prompt or messages, and outputs; texts or token ids."""

    outputs: list[str | list[int]]
    prompt: str | list[int] | None = None
    messages: Messages | None = None
    input: str = ""
    along: str | int | None = None

    def samples(self, context: Context) -> Asked:
        """Return a sample per output."""
        prompt = _one_of("prompt", self.prompt, "messages", self.messages)
        by = None if self.along is None else to_by(self.along)
        return [
            TextSample(prompt=prompt, output=output, input=self.input, along=by)
            for output in self.outputs
        ]

    def reply(self, answers: Answers, context: Context) -> dict[str, Any]:
        """Return lists in the order of the outputs; null where an output was not judged."""
        judged = [one if isinstance(one, Judged) else None for one in answers]
        return {
            "model": context.model,
            "values": [one and one.value for one in judged],
            "probabilities": [one and one.probability for one in judged],
            "logits": [one and one.logit for one in judged],
            "ranks": ranks_of(judged),
            "spread": [one and one.spread for one in judged],
            "truncated": [one and one.is_truncated for one in judged],
            **({} if self.along is None else {"along": [one and one.along for one in judged]}),
            **errors_of(answers),
        }


class RerankRequest(msgspec.Struct):
    """`POST /rerank`: a prompt and candidates; Cohere's, Jina's and vLLM's names work as well."""

    prompt: str | list[int] | None = None
    candidates: list[str | list[int]] | None = None
    messages: Messages | None = None
    query: str | None = None
    documents: list[str] | None = None
    input: str = ""
    top_n: int | None = None
    return_documents: bool = True

    def samples(self, context: Context) -> Asked:
        """Return a sample per candidate."""
        if self.top_n is not None and self.top_n < 0:
            raise CriticError(f"'top_n' is {self.top_n}; give how many results you want, or none")
        at_most_one(prompt=self.prompt, query=self.query)
        asked = self.query if self.prompt is None else self.prompt
        prompt = _one_of("prompt", asked, "messages", self.messages)
        return [TextSample(prompt=prompt, output=one, input=self.input) for one in self._texts()]

    def reply(self, answers: Answers, context: Context) -> dict[str, Any]:
        """Return the judged candidates, the best first; equal ones in the order they came."""
        judged = [(place, one) for place, one in enumerate(answers) if isinstance(one, Judged)]
        judged.sort(key=lambda placed: -placed[1].value)
        count = len(judged) if not self.top_n else self.top_n
        return {
            "model": context.model,
            "results": [self._result(place, one) for place, one in judged[:count]],
            "usage": usage_of(answers),
            **errors_of(answers),
        }

    def _texts(self) -> list[Output]:
        at_most_one(candidates=self.candidates, documents=self.documents)
        candidates = self.candidates if self.candidates is not None else self.documents
        if candidates is None:
            raise CriticError("the request has no 'candidates'; give a list of solutions")
        return list(candidates)

    def _result(self, place: int, judged: Judged) -> dict[str, Any]:
        is_calibrated = judged.probability is not None
        text = self._texts()[place]
        shown = self.return_documents and isinstance(text, str)
        return {
            "index": place,
            "relevance_score": judged.probability if is_calibrated else judged.value,
            "value": judged.value,
            "probability": judged.probability,
            **({"document": {"text": text}} if shown else {}),
        }


def ranks_of(judged: list[Judged | None]) -> list[int | None]:
    """Rank the values, 1 is the highest; None where there is none."""
    values = np.array([one.value for one in judged if one is not None], np.float64)
    ranks = iter(rank_within(values, np.zeros(len(values), np.int64)).tolist())
    return [None if one is None else next(ranks) for one in judged]


def _one_of(name: str, value: Prompt | None, other_name: str, other: Messages | None) -> Prompt:
    if (value is None) == (other is None):
        both = "both" if value is not None else "neither"
        raise CriticError(f"the request has {both} of {name!r} and {other_name!r}; give one")
    return value if value is not None else other or []
