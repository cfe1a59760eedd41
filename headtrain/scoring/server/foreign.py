"""Endpoints in the shapes of OpenRLHF, slime, vLLM and SGLang, as verl's clients call them."""

import uuid
from collections.abc import Sequence
from typing import Any

import msgspec

from featurize.data.prompt import RESPONSE_MARK, TEMPLATE, TEMPLATE_WITH_INPUT
from featurize.errors import CriticError, shorten
from headtrain.scoring.judged import Judged
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
from headtrain.scoring.texts import Problem, TextRules

INPUT_MARK = "\n\n### Input:\n"


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
            return [_split(context.rules, text) for text in self.query]
        if len(self.prompts) != len(self.query):
            raise CriticError(
                f"'query' has {len(self.query)} texts and 'prompts' {len(self.prompts)}; give one"
                " prompt per query"
            )
        return [
            _split(context.rules, text, prompt)
            for text, prompt in zip(self.query, self.prompts, strict=True)
        ]

    def reply(self, answers: Answers, context: Context) -> dict[str, Any]:
        """Return rewards for the advantage, scores in [0, 1] for filtering, and numbers to log."""
        rewards = [_reward(one, context) for one in answers]
        probabilities = [one.probability if isinstance(one, Judged) else None for one in answers]
        is_calibrated = any(one is not None for one in probabilities)
        values = [one.value if isinstance(one, Judged) else None for one in answers]
        return {
            "rewards": rewards,
            "scores": probabilities if is_calibrated else rewards,
            "extra_logs": {"critic_value": values},
            **errors_of(answers),
        }


class RmRequest(msgspec.Struct):
    """`POST /rm` of slime (slime/rollout/rm_hub, `--rm-type remote_rm`)."""

    prompt: str | Messages
    response: str
    label: Any = None

    def samples(self, context: Context) -> Asked:
        """Return the one sample."""
        rules = context.rules
        try:
            prompt = rules.to_problem(self.prompt) if isinstance(self.prompt, str) else self.prompt
        except ValueError as error:
            return [error]
        return [TextSample(prompt=prompt, output=rules.to_output(self.response))]

    def reply(self, answers: Answers, context: Context) -> float | None:
        """Return the reward, a bare number."""
        return _reward(answers[0], context)


class ClassifyRequest(msgspec.Struct):
    """`POST /classify` and `/v1/classify` of vLLM and SGLang; `text` is SGLang's own shape."""

    input: str | list[str | int | list[int]] | None = None
    text: str | list[str] | None = None
    messages: Messages | None = None
    use_activation: bool | None = None
    activation: bool | None = None

    def samples(self, context: Context) -> Asked:
        """Return a sample per text."""
        at_most_one(input=self.input, text=self.text, messages=self.messages)
        if self.messages is not None:
            return [_split_messages(self.messages)]
        given = self.input if self.input is not None else self.text
        return [_split(context.rules, text) for text in _to_texts(given)]

    def reply(self, answers: Answers, context: Context) -> Any:
        """Return the probability as the one class, or the log-odds without activation."""
        if self.input is None and self.messages is None:
            found = [_to_embedding(one, context) for one in answers]
            return found[0] if isinstance(self.text, str) else found
        data = [
            {"index": place, "label": "correct", "probs": self._probs(one), "num_classes": 1}
            for place, one in enumerate(answers)
        ]
        return _to_list("classify", data, answers, context)

    def _probs(self, answer: Judged | ValueError) -> list[float]:
        """Empty for a sample that was not judged: a client that reads it fails, loudly."""
        if isinstance(answer, ValueError):
            return []
        is_raw = False in (self.use_activation, self.activation)
        return [answer.on_scale("logit" if is_raw else "probability")]


class EmbeddingsRequest(msgspec.Struct):
    """`POST /v1/embeddings`, which verl's client asks SGLang for the value of a reward model."""

    input: str | list[str | int | list[int]]

    def samples(self, context: Context) -> Asked:
        """Return a sample per text."""
        return [_split(context.rules, text) for text in _to_texts(self.input)]

    def reply(self, answers: Answers, context: Context) -> dict[str, Any]:
        """Return the reward as an embedding of one number."""
        data = [
            {"object": "embedding", "index": place, **_to_embedding(one, context)}
            for place, one in enumerate(answers)
        ]
        return _to_list("embd", data, answers, context)


def _to_list(kind: str, data: list[Any], answers: Answers, context: Context) -> dict[str, Any]:
    return {
        "id": f"{kind}-{uuid.uuid4().hex}",
        "object": "list",
        "created": context.created,
        "model": context.model,
        "data": data,
        "usage": usage_of(answers),
        **errors_of(answers),
    }


def _to_embedding(answer: Judged | ValueError, context: Context) -> dict[str, list[float]]:
    reward = _reward(answer, context)
    return {"embedding": [] if reward is None else [reward]}


def _reward(answer: Judged | ValueError, context: Context) -> float | None:
    return answer.on_scale(context.scale) if isinstance(answer, Judged) else None


def _split(rules: TextRules, text: str, prompt: str | None = None) -> TextSample | ValueError:
    """Split a text into problem and solution; a fault belongs to this sample alone."""
    try:
        found = split_rendered(text, rules) if prompt is None else rules.split_query(text, prompt)
    except ValueError as error:
        return error
    return TextSample(
        prompt=found.instruction,
        output=found.output,
        input=found.input,
        is_rendered=prompt is None,
    )


def _split_messages(messages: Messages) -> TextSample | ValueError:
    """Take the last message, which must be the assistant's, as the solution."""
    *before, last = messages or [{}]
    if last.get("role") != "assistant" or not isinstance(last.get("content"), str):
        return CriticError(
            f"the last message is {shorten(last)}; it must be the solution, of role 'assistant'"
            " with a text as its content"
        )
    return TextSample(prompt=before, output=last["content"])


def _to_texts(given: str | Sequence[str | int | list[int]] | None) -> list[str]:
    if isinstance(given, str):
        return [given]
    if given is None:
        raise CriticError("the request has none of 'input', 'text' and 'messages'; give one")
    texts = [text for text in given if isinstance(text, str)]
    if len(texts) != len(given):
        raise CriticError(
            "'input' holds token ids, in which prompt and solution cannot be told apart; send texts"
            " or messages, or the two lists of ids to /score"
        )
    return texts


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
