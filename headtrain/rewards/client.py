"""Asks a critic's server for judgements, one request per prompt."""

import functools
import http.client
import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from featurize.errors import CriticError, shorten
from headtrain.scoring.verdict import Verdict

TIMEOUT = 180.0
"""Seconds to wait for one reply."""
ATTEMPTS = 8
MAX_REQUESTS = 16
"""Requests that are open at a time."""

Prompt: TypeAlias = str | Sequence[Mapping[str, object]]
"""A text, or messages with `role` and `content`."""

Answers: TypeAlias = Sequence[Verdict | ValueError]
"""Judgement of each output of a prompt, or why there is none."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """A prompt and outputs to judge."""

    prompt: Prompt
    outputs: Sequence[str]


_BUSY = (429, 503)  # too many samples wait; the backbone is loading


class ServerError(CriticError):
    """The server cannot be reached, or refuses a request."""


def judge_there(url: str, groups: Sequence[Group]) -> list[Answers]:
    """Judge on a server, several prompts at a time.

    Raises:
        ServerError: as `judge_remotely`.
    """
    with ThreadPoolExecutor(MAX_REQUESTS) as pool:
        return list(pool.map(functools.partial(judge_remotely, url), groups))


def judge_remotely(url: str, group: Group) -> Answers:
    """Judge outputs of one prompt; the answer for a bad output is its error.

    A server that is busy or still loading is asked again, when it says so. The token is read from
    CRITIC_TOKEN.

    Raises:
        ServerError: there is no answer after all attempts, or the request is refused.
    """
    name = "prompt" if isinstance(group.prompt, str) else "messages"
    body = json.dumps({name: group.prompt, "outputs": list(group.outputs)}).encode()
    status, reply = _ask(f"{url.rstrip('/')}/score", body)
    try:
        return _to_answers(status, reply, len(group.outputs))
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ServerError(
            f"{url}: the reply {shorten(reply)} is not one of `critic serve`; ask another address"
        ) from error


def _to_answers(status: int, reply: dict[str, Any], count: int) -> Answers:
    """Read the answers for `count` outputs; any other number of them is an IndexError."""
    answers: Answers
    if status == 422:
        answers = [CriticError(error) for error in reply["errors"]]
    else:
        answers = [
            CriticError(error) if error is not None else _to_judged(reply, place)
            for place, error in enumerate(reply.get("errors") or [None] * len(reply["values"]))
        ]
    if len(answers) != count:
        raise IndexError
    return answers


def _to_judged(reply: dict[str, Any], place: int) -> Verdict:
    return Verdict(
        value=reply["values"][place],
        logit=reply["logits"][place],
        probability=reply["probabilities"][place],
        spread=reply["spread"][place],
        num_tokens=0,
        is_truncated=reply["truncated"][place],
    )


def _ask(url: str, body: bytes) -> tuple[int, dict[str, Any]]:
    """Post a body until there is a reply; return its status, 200 or 422, and its content."""
    reason = ""
    for attempt in range(ATTEMPTS):
        try:
            with urlopen(_request(url, body), timeout=TIMEOUT) as response:
                return 200, _parse(url, response.read())
        except HTTPError as error:
            content = error.read()
            if error.code == 422:
                return 422, _parse(url, content)
            reason = f"status {error.code}: {shorten(content.decode(errors='replace'), 200)}"
            if error.code not in _BUSY:
                break
            time.sleep(_pause(error.headers.get("Retry-After", ""), attempt))
        except (URLError, OSError, http.client.HTTPException) as error:
            reason = str(error)
            time.sleep(_pause("", attempt))
    raise ServerError(f"{url}: no judgement ({reason}); is `critic serve` running there?")


def _parse(url: str, content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise ServerError(
            f"{url}: the reply {shorten(content.decode(errors='replace'))} is not JSON; is `critic"
            " serve` running there?"
        ) from error


def _request(url: str, body: bytes) -> Request:
    if not url.startswith(("http://", "https://")):
        raise ServerError(f"the server's URL is {url!r}; it must begin with http:// or https://")
    headers = {"Content-Type": "application/json"}
    if token := os.environ.get("CRITIC_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    return Request(url, body, headers, method="POST")


def _pause(retry_after: str, attempt: int) -> float:
    return float(retry_after) if retry_after.isdecimal() else min(0.2 * 2**attempt, 10.0)
