"""The requests of the endpoints: samples to score, and a reply made of the verdicts.

`/score` and `/rerank` are the critic's own. The others have the shapes of OpenRLHF, slime, vLLM and
SGLang, as verl's clients call them.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import msgspec
import numpy as np

from featurize.data.prompt import RESPONSE_MARK, TEMPLATE, TEMPLATE_WITH_INPUT
from featurize.errors import CriticError, shorten
from headtrain.scoring.scorer import rank_within
from headtrain.scoring.texts import TextRules, TextSample
from headtrain.scoring.verdict import Scale, Verdict, to_by

INPUT_MARK = "\n\n### Input:\n"

Messages: TypeAlias = list[dict[str, Any]]

Asked: TypeAlias = Sequence[TextSample | ValueError]
"""The samples of a request, and in place of a bad one what is wrong with it."""

Answer: TypeAlias = Verdict | ValueError
"""The verdict on a sample, or why there is none."""

Answers: TypeAlias = Sequence[Answer]


@dataclass(frozen=True, kw_only=True)
class Context:
    """What requests need to know of the server."""

    model: str
    created: int
    """Seconds since 1970 when the server started."""
    scale: Scale
    rules: TextRules

    def reward(self, answer: Answer) -> float | None:
        """Return the reward; None for a sample that was not scored.

        Raises:
            CriticError: the scale needs a calibration that the head does not have.
        """
        return answer.on_scale(self.scale) if isinstance(answer, Verdict) else None


class Request(Protocol):
    """The parsed body of a request."""

    def samples(self, context: Context) -> Asked:
        """Return the samples to score.

        Raises:
            ValueError: the request as a whole makes no sense.
        """

    def reply(self, answers: Answers, context: Context) -> Any:
        """Return the body of the reply, for JSON; called if a sample was scored or none was asked.

        Raises:
            ValueError: the reply needs a calibration that the head does not have.
        """


class ScoreRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /score`: a prompt or messages, and outputs; texts or token ids."""

    outputs: list[str | list[int]]
    prompt: str | list[int] | None = None
    messages: Messages | None = None
    input: str = ""
    along: str | int | None = None

    def samples(self, context: Context) -> Asked:
        """Return a sample per output."""
        prompt = one_of(prompt=self.prompt, messages=self.messages)
        by = None if self.along is None else to_by(self.along)
        return [
            TextSample(prompt=prompt, output=output, input=self.input, along=by)
            for output in self.outputs
        ]

    def reply(self, answers: Answers, context: Context) -> dict[str, Any]:
        """Return lists in the order of the outputs; null where an output was not scored."""
        verdicts = [one if isinstance(one, Verdict) else None for one in answers]
        return {
            "model": context.model,
            "values": [one and one.value for one in verdicts],
            "probabilities": [one and one.probability for one in verdicts],
            "logits": [one and one.logit for one in verdicts],
            "ranks": _ranks_of(verdicts),
            "spread": [one and one.spread for one in verdicts],
            "distances": [one and one.distance for one in verdicts],
            "truncated": [one and one.is_truncated for one in verdicts],
            **({} if self.along is None else {"along": [one and one.along for one in verdicts]}),
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
        prompt = one_of(prompt=self.prompt, query=self.query, messages=self.messages)
        candidates = one_of(candidates=self.candidates, documents=self.documents)
        return [TextSample(prompt=prompt, output=one, input=self.input) for one in candidates]

    def reply(self, answers: Answers, context: Context) -> dict[str, Any]:
        """Return the scored candidates, the best first; equal ones in the order they came."""
        judged = [(place, one) for place, one in enumerate(answers) if isinstance(one, Verdict)]
        judged.sort(key=lambda placed: -placed[1].value)
        count = len(judged) if not self.top_n else self.top_n
        return {
            "model": context.model,
            "results": [self._result(place, one) for place, one in judged[:count]],
            "usage": _usage_of(answers),
        }

    def _result(self, place: int, verdict: Verdict) -> dict[str, Any]:
        is_calibrated = verdict.probability is not None
        text = one_of(candidates=self.candidates, documents=self.documents)[place]
        shown = self.return_documents and isinstance(text, str)
        return {
            "index": place,
            "relevance_score": verdict.probability if is_calibrated else verdict.value,
            "value": verdict.value,
            "probability": verdict.probability,
            **({"document": {"text": text}} if shown else {}),
        }


class GetRewardRequest(msgspec.Struct):
    """`POST /get_reward` of OpenRLHF (openrlhf/utils/remote_rm_utils.py).

    A query is a prompt and its response in one text. Older clients send no prompts.
    """

    query: list[str]
    prompts: list[str] | None = None
    labels: Any = None

    def samples(self, context: Context) -> Asked:
        """Return a sample per query."""
        if self.prompts is None:
            return _split(context.rules, self.query)
        if len(self.prompts) != len(self.query):
            raise CriticError(
                f"'query' has {len(self.query)} texts and 'prompts' {len(self.prompts)}; give one"
                " prompt per query"
            )
        return [
            _or_error(context.rules.split_query, text, prompt)
            for text, prompt in zip(self.query, self.prompts, strict=True)
        ]

    def reply(self, answers: Answers, context: Context) -> dict[str, Any]:
        """Return rewards for the advantage, scores in [0, 1] for filtering, and numbers to log."""
        rewards = [context.reward(one) for one in answers]
        probabilities = [one.probability if isinstance(one, Verdict) else None for one in answers]
        is_calibrated = any(one is not None for one in probabilities)
        values = [one.value if isinstance(one, Verdict) else None for one in answers]
        return {
            "rewards": rewards,
            "scores": probabilities if is_calibrated else rewards,
            "extra_logs": {"critic_value": values},
        }


class RmRequest(msgspec.Struct):
    """`POST /rm` of slime (slime/rollout/rm_hub, `--rm-type remote_rm`)."""

    prompt: str | Messages
    response: str
    label: Any = None

    def samples(self, context: Context) -> Asked:
        """Return the one sample."""
        return [_or_error(context.rules.to_sample, self.prompt, self.response)]

    def reply(self, answers: Answers, context: Context) -> float | None:
        """Return the reward, a bare number."""
        return context.reward(answers[0])


class ClassifyRequest(msgspec.Struct):
    """`POST /classify` and `/v1/classify` of vLLM and SGLang; `text` is SGLang's own shape."""

    input: str | list[str | int | list[int]] | None = None
    text: str | list[str] | None = None
    messages: Messages | None = None
    use_activation: bool | None = None
    activation: bool | None = None

    def samples(self, context: Context) -> Asked:
        """Return a sample per text."""
        given = one_of(input=self.input, text=self.text, messages=self.messages)
        if self.messages is not None:
            return [_split_messages(self.messages)]
        return _split(context.rules, _to_texts(given))

    def reply(self, answers: Answers, context: Context) -> Any:
        """Return the probability as the one class, or the log-odds without activation."""
        if self.text is not None:
            found = [_to_embedding(one, context) for one in answers]
            return found[0] if isinstance(self.text, str) else found
        data = [
            {"index": place, "label": "correct", "probs": self._probs(one), "num_classes": 1}
            for place, one in enumerate(answers)
        ]
        return _to_list("classify", data, answers, context)

    def _probs(self, answer: Answer) -> list[float]:
        """Empty for a sample that was not scored, so that a client that reads it fails."""
        if isinstance(answer, ValueError):
            return []
        is_raw = False in (self.use_activation, self.activation)
        return [answer.on_scale("logit" if is_raw else "probability")]


class EmbeddingsRequest(msgspec.Struct):
    """`POST /v1/embeddings`, which verl's client asks SGLang for the value of a reward model."""

    input: str | list[str | int | list[int]]

    def samples(self, context: Context) -> Asked:
        """Return a sample per text."""
        return _split(context.rules, _to_texts(self.input))

    def reply(self, answers: Answers, context: Context) -> dict[str, Any]:
        """Return the reward as an embedding of one number."""
        data = [
            {"object": "embedding", "index": place, **_to_embedding(one, context)}
            for place, one in enumerate(answers)
        ]
        return _to_list("embd", data, answers, context)


def one_of(**fields: Any) -> Any:
    """Return the one of several names of the same thing that a request has.

    Raises:
        CriticError: it has none, or two, of which one would be ignored.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    if len(given) != 1:
        what = " and ".join(map(repr, given)) or f"none of {', '.join(map(repr, fields))}"
        raise CriticError(f"the request has {what}; give one of them")
    [value] = given.values()
    return value


def _ranks_of(verdicts: Sequence[Verdict | None]) -> list[int | None]:
    """Rank the values, 1 is the highest; None where there is none."""
    values = np.array([one.value for one in verdicts if one is not None], np.float64)
    ranks = iter(rank_within(values, np.zeros(len(values), np.int64)).tolist())
    return [None if one is None else next(ranks) for one in verdicts]


def _usage_of(answers: Answers) -> Mapping[str, int]:
    """Count tokens as OpenAI's replies do."""
    tokens = sum(one.num_tokens for one in answers if isinstance(one, Verdict))
    return {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}


def _to_list(kind: str, data: list[Any], answers: Answers, context: Context) -> dict[str, Any]:
    return {
        "id": f"{kind}-{uuid.uuid4().hex}",
        "object": "list",
        "created": context.created,
        "model": context.model,
        "data": data,
        "usage": _usage_of(answers),
    }


def _to_embedding(answer: Answer, context: Context) -> dict[str, list[float]]:
    reward = context.reward(answer)
    return {"embedding": [] if reward is None else [reward]}


def _or_error(make: Any, *arguments: Any) -> TextSample | ValueError:
    """Make a sample of its texts; a fault belongs to this sample alone."""
    try:
        sample: TextSample = make(*arguments)
    except ValueError as error:
        return error
    return sample


def _split(rules: TextRules, texts: Sequence[str]) -> Asked:
    return [_or_error(split_rendered, text, rules) for text in texts]


def _split_messages(messages: Messages) -> TextSample | ValueError:
    """Take the last message, which must be the assistant's, as the solution."""
    *before, last = messages or [{}]
    if last.get("role") != "assistant" or not isinstance(last.get("content"), str):
        return CriticError(
            f"the last message is {shorten(last)}; it must be the solution, of role 'assistant'"
            " with a text as its content"
        )
    return TextSample(prompt=before, output=last["content"])


def _to_texts(given: str | Sequence[str | int | list[int]]) -> list[str]:
    if isinstance(given, str):
        return [given]
    texts = [text for text in given if isinstance(text, str)]
    if len(texts) != len(given):
        raise CriticError(
            "'input' holds token ids, in which prompt and solution cannot be told apart; send texts"
            " or messages, or the two lists of ids to /score"
        )
    return texts


def split_rendered(text: str, rules: TextRules) -> TextSample:
    """Split a text that was rendered with the critic's own prompt template.

    Raises:
        CriticError: it was not, or where the solution begins is ambiguous.
    """
    for template in (TEMPLATE_WITH_INPUT, TEMPLATE):
        opening = template.partition("{instruction}")[0]
        if text.startswith(opening):
            prompt, output = _split_once(text.removeprefix(opening), RESPONSE_MARK)
            input_text = ""
            if template == TEMPLATE_WITH_INPUT:
                prompt, input_text = _split_once(prompt, INPUT_MARK)
            output = rules.to_output(output)
            return TextSample(prompt=prompt, output=output, input=input_text, is_rendered=True)
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
