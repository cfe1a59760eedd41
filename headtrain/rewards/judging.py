"""Scores completions by their prompts: in this process, or by asking a critic's server."""

import functools
import http.client
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from featurize.errors import CriticError, shorten
from headtrain.scoring.texts import Messages
from headtrain.scoring.verdict import Verdict

# NOTE: a trainer that asks a server needs no backbone's libraries.
if TYPE_CHECKING:
    from headtrain.scoring.critic import Critic
    from headtrain.scoring.samples import Sample

TIMEOUT = 180.0
"""Seconds to wait for one reply."""
ATTEMPTS = 8
MAX_REQUESTS = 16
"""Requests that are open at a time."""

_BUSY = (429, 503)  # too many samples wait; the backbone is loading

Answers: TypeAlias = Sequence[Verdict | ValueError]
"""Verdict on each output of a prompt, or why there is none."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """A prompt and outputs to score."""

    prompt: str | Messages
    outputs: Sequence[str]


def judge_here(
    head: str, device: str, backbone: str | None, groups: Sequence[Group]
) -> list[Answers]:
    """Score the outputs of all prompts in one run of the backbone.

    Raises:
        ValueError: the head cannot be loaded, or the features are NaN or inf.
    """
    critic = _load_once(head, device, backbone)
    encoded = [[_encode(critic, group, output) for output in group.outputs] for group in groups]
    samples = [one for ones in encoded for one in ones if not isinstance(one, ValueError)]
    found = iter(critic.judge_samples(samples))
    return [
        [one if isinstance(one, ValueError) else next(found) for one in ones] for ones in encoded
    ]


@functools.cache
def _load_once(head: str, device: str, backbone: str | None) -> "Critic":
    from headtrain.scoring.critic import Critic

    return Critic.load(head, device=device, backbone=backbone)


def _encode(critic: "Critic", group: Group, output: str) -> "Sample | ValueError":
    try:
        return critic.samples.encode_one(group.prompt, output)
    except ValueError as error:
        return error


def judge_there(url: str, groups: Sequence[Group]) -> list[Answers]:
    """Score on a server, several prompts at a time.

    Raises:
        CriticError: as `judge_group`.
    """
    with ThreadPoolExecutor(MAX_REQUESTS) as pool:
        return list(pool.map(functools.partial(judge_group, url), groups))


def judge_group(url: str, group: Group) -> Answers:
    """Score outputs of one prompt; the answer for a bad output is its error.

    A server that is busy or still loading is asked again, when it says so. The token is read from
    CRITIC_TOKEN.

    Raises:
        CriticError: there is no answer after all attempts, or the request is refused.
    """
    name = "prompt" if isinstance(group.prompt, str) else "messages"
    body = json.dumps({name: group.prompt, "outputs": list(group.outputs)}).encode()
    status, reply = _ask(f"{url.rstrip('/')}/score", body)
    try:
        return _to_answers(status, reply, len(group.outputs))
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise CriticError(
            f"{url}: the reply {shorten(reply)} is not one of `critic serve`; ask another address"
        ) from error


def _to_answers(status: int, reply: dict[str, Any], count: int) -> Answers:
    """Read the answers for `count` outputs; any other number of them is an IndexError."""
    errors = reply["errors"] if status == 422 else reply.get("errors")
    errors = errors or [None] * len(reply["values"])
    if len(errors) != count:
        raise IndexError
    return [
        _to_verdict(reply, place) if error is None else CriticError(error)
        for place, error in enumerate(errors)
    ]


def _to_verdict(reply: dict[str, Any], place: int) -> Verdict:
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
    raise CriticError(f"{url}: no reward ({reason}); is `critic serve` running there?")


def _parse(url: str, content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise CriticError(
            f"{url}: the reply {shorten(content.decode(errors='replace'))} is not JSON; is `critic"
            " serve` running there?"
        ) from error


def _request(url: str, body: bytes) -> Request:
    if not url.startswith(("http://", "https://")):
        raise CriticError(f"the server's URL is {url!r}; it must begin with http:// or https://")
    headers = {"Content-Type": "application/json"}
    if token := os.environ.get("CRITIC_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    return Request(url, body, headers, method="POST")


def _pause(retry_after: str, attempt: int) -> float:
    return float(retry_after) if retry_after.isdecimal() else min(0.2 * 2**attempt, 10.0)
