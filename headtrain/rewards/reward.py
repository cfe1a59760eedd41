"""The reward of completions by a critic, in this process or from a server."""

import asyncio
import json
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast, get_args

from featurize.data.fields import is_blank
from featurize.data.messages import to_messages
from featurize.errors import CriticError, shorten
from headtrain.rewards.judging import Answers, Group, judge_here, judge_there
from headtrain.scoring.texts import Messages, last_block
from headtrain.scoring.verdict import Verdict

logger = logging.getLogger(__name__)

RewardScale = Literal["logit", "probability", "value", "group_rank"]
"""Calibrated log-odds, their probability, the head's own value, or the share of the prompt's other
completions that are worse."""

Completion: TypeAlias = str | Messages
"""A text, or the messages of an answer, of which the last counts."""


@dataclass(kw_only=True)
class CriticReward:
    """A reward function `f(prompts, completions, **columns) -> list[float | None]`.

    Completions of equal prompts share one forward pass over the prompt. The object can be pickled:
    it holds names, and loads the critic once per process when it is first called.
    """

    head: str | None = None
    """Folder or URI of the head."""
    url: str | None = None
    """A server to ask instead (`critic serve`)."""
    scale: RewardScale = "logit"
    floor: float | None = None
    """The reward of a completion that is not scored; None: no reward."""
    fenced: bool = False
    """Score the last fenced block of a completion, instead of all of it."""
    device: str = "auto"
    backbone: str | None = None
    """The backbone's place, if it is not where the head's run had it."""
    counts: Counter[str] = field(default_factory=Counter)
    """Completions by outcome: judged, empty, no_code, too_long, refused."""

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            CriticError: neither a head nor a server is named, or the scale is unknown.
        """
        self.__name__ = "critic_reward"  # trainers log under this name
        if not self.head and not self.url:
            raise CriticError("no head is named; give its folder, or set CRITIC_HEAD or CRITIC_URL")
        if self.scale not in get_args(RewardScale):
            known = ", ".join(get_args(RewardScale))
            raise CriticError(f"the scale is {shorten(self.scale)}; it must be one of {known}")
        if self.floor is not None and not _is_finite(self.floor):
            raise CriticError(f"the floor is {shorten(self.floor)}; it must be a number, or None")
        if not isinstance(self.fenced, bool):
            raise CriticError(f"fenced is {shorten(self.fenced)}; it must be True or False")

    def __call__(
        self, prompts: Sequence[str | Messages], completions: Sequence[Completion], **columns: Any
    ) -> list[float | None]:
        """Return the reward of each completion; None where there is none.

        Args:
            prompts: texts or messages, one per completion.
            completions: texts or messages.
            columns: whatever else a trainer passes; `log_metric` is called with shares of outcomes.

        Raises:
            ValueError: a prompt is neither text nor messages, or there is not one per completion.
        """
        call = _Call(self, prompts, completions)
        return call.rewards(self._judge(call.groups), columns.get("log_metric"))

    def _judge(self, groups: Sequence[Group]) -> list[Answers]:
        """Score the outputs of all prompts: here in one run, on a server all at once."""
        if self.url:
            return judge_there(self.url, groups)
        assert self.head is not None, "checked when it was made"
        return judge_here(self.head, self.device, self.backbone, groups)


class AsyncCriticReward(CriticReward):
    """The same as a coroutine function, for trainers that await their rewards together."""

    async def __call__(  # type: ignore[override]
        self, prompts: Sequence[str | Messages], completions: Sequence[Completion], **columns: Any
    ) -> list[float | None]:
        """Return the reward of each completion; takes the arguments of `CriticReward`."""
        call = _Call(self, prompts, completions)
        answers = await asyncio.to_thread(self._judge, call.groups)
        return call.rewards(answers, columns.get("log_metric"))


def critic_reward(
    head: str | None = None,
    scale: RewardScale = "logit",
    url: str | None = None,
    **options: Any,
) -> CriticReward:
    """Make a reward function for TRL's trainers; with `url` it is asynchronous.

    `options` are the other fields of `CriticReward`: floor, fenced, device, backbone.

    Raises:
        CriticError: as `CriticReward`.
    """
    kind = AsyncCriticReward if url else CriticReward
    return kind(head=head, scale=scale, url=url, **options)


class _Call:
    """The completions of one call, grouped by their prompts."""

    def __init__(
        self,
        reward: CriticReward,
        prompts: Sequence[str | Messages],
        completions: Sequence[Completion],
    ) -> None:
        prompts, completions = _to_list(prompts, "prompts"), _to_list(completions, "completions")
        if len(prompts) != len(completions):
            counts = f"{len(prompts)} prompts and {len(completions)} completions"
            raise CriticError(f"{counts} are given; give one prompt per completion")
        self._reward = reward
        self._outcomes = [""] * len(completions)
        self._places: dict[str, list[int]] = {}
        outputs: list[str] = []
        prompts = [_to_plain(prompt) for prompt in prompts]
        for place, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            output, self._outcomes[place] = self._to_output(completion)
            outputs.append(output)
            if not self._outcomes[place]:
                self._places.setdefault(_key(prompt), []).append(place)
        self.groups = [
            Group(prompt=prompts[places[0]], outputs=[outputs[place] for place in places])
            for places in self._places.values()
        ]
        """Outputs to score by their prompt."""

    def _to_output(self, completion: Completion) -> tuple[str, str]:
        """Return the text to score, and why there is none, if so."""
        text = _text_of(completion)
        found = last_block(text) if self._reward.fenced else text
        if found is None:
            return "", "empty" if is_blank(text) else "no_code"
        return found, "empty" if is_blank(found) else ""

    def rewards(self, found: Sequence[Answers], log_metric: Any) -> list[float | None]:
        """Turn the answers about all outputs into rewards, and count the outcomes."""
        numbers = [self._reward.floor] * len(self._outcomes)
        for places, answers in zip(self._places.values(), found, strict=True):
            judged: dict[int, Verdict] = {}
            for place, answer in zip(places, answers, strict=True):
                self._outcomes[place] = _outcome_of(answer)
                if self._outcomes[place] == "judged":
                    judged[place] = cast(Verdict, answer)
            for place, reward in _to_rewards(judged, self._reward.scale).items():
                numbers[place] = reward
        counts = Counter(self._outcomes)
        self._reward.counts.update(counts)
        if callable(log_metric) and self._outcomes:
            for outcome in ("judged", "empty", "no_code", "too_long", "refused"):
                log_metric(f"critic/{outcome}", counts[outcome] / len(self._outcomes))
        return numbers


def _outcome_of(answer: Verdict | ValueError) -> str:
    if isinstance(answer, ValueError):
        logger.warning("a completion is not scored: %s", answer)
        return "refused"
    return "too_long" if answer.is_truncated else "judged"


def _to_rewards(judged: Mapping[int, Verdict], scale: RewardScale) -> dict[int, float]:
    if scale == "group_rank":
        values = [one.value for one in judged.values()]
        return {place: _share_of_worse(one.value, values) for place, one in judged.items()}
    return {place: one.on_scale(scale) for place, one in judged.items()}


def _share_of_worse(value: float, values: Sequence[float]) -> float:
    """Return the share of the others that are worse, equal ones as halves; 0.5 without others."""
    if len(values) == 1:
        return 0.5
    worse, equal = sum(v < value for v in values), sum(v == value for v in values) - 1
    return (worse + equal / 2) / (len(values) - 1)


def _key(prompt: str | Messages) -> str:
    """Return a text that is equal for equal prompts.

    Raises:
        CriticError: it is neither a text nor messages.
    """
    if isinstance(prompt, str):
        return f"text {prompt}"
    try:
        messages = [(message["role"], message["content"]) for message in prompt]
        return f"messages {json.dumps(messages)}"
    except (TypeError, KeyError):
        raise CriticError(
            f"the prompt is {shorten(prompt)}; it must be a text, or messages with 'role' and"
            " 'content'"
        ) from None


def _is_finite(number: object) -> bool:
    """Whether a value is a number, and neither NaN nor inf."""
    is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
    return is_number and math.isfinite(cast(float, number))


def _to_list(values: Any, name: str) -> list[Any]:
    """Return the items of a list, a tuple or an array.

    Raises:
        CriticError: it is something else, such as one text.
    """
    values = _to_plain(values)
    if not isinstance(values, (list, tuple)):
        raise CriticError(f"{name} is {shorten(values)}; it must be a list")
    return list(values)


def _to_plain(value: Any) -> Any:
    """Return texts and lists as Python's own: datasets in Parquet give arrays of messages."""
    if isinstance(value, str):
        return str(value)
    return value.tolist() if hasattr(value, "tolist") else value


def _text_of(completion: Any) -> str:
    """Return the text of a completion; of messages that of the last.

    Raises:
        CriticError: it is neither, or has parts that are no text.
    """
    if completion is None or isinstance(completion, str):
        return str(completion or "")
    messages = _to_plain(completion)
    if not isinstance(messages, (list, tuple)) or not all(isinstance(m, dict) for m in messages):
        raise CriticError(
            f"a completion is {shorten(completion)}; it must be a text, or messages with 'role' and"
            " 'content'"
        )
    content = messages[-1].get("content") if messages else None
    if content is None:
        return ""
    if not isinstance(content, (str, list)):
        raise CriticError(f"the completion's content is {shorten(content)}; it must be a text")
    if not isinstance(content, list):
        return content
    return to_messages({"role": "assistant", "content": content}, "completion")[0][1]
