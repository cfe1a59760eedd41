"""Preference and unpaired rows, as the TRL library defines them, turned into plain rows."""

from featurize.data.fields import (
    Row,
    describe,
    optional_bool,
    optional_id,
    require,
    to_answer,
    to_text,
)
from featurize.errors import RowFault, shorten

_SHARED_KEYS = ("input", "problem_id", "metadata")


def to_plain_rows(row: Row) -> list[Row]:
    """Return the plain rows of a row: two for a preference row, else one."""
    if "instruction" in row or "output" in row:
        return [row]
    if "chosen" in row or "rejected" in row:
        return _from_preference(row)
    if "completion" in row:
        return [_from_unpaired(row)]
    return [row]


def _from_preference(row: Row) -> list[Row]:
    """Return `chosen` as a correct answer and `rejected` as an incorrect one."""
    need = "a preference row needs both 'chosen' and 'rejected'"
    chosen_prompt, chosen = _prompt_and_answer(row, "chosen", need)
    rejected_prompt, rejected = _prompt_and_answer(row, "rejected", need)
    if chosen_prompt != rejected_prompt:
        raise RowFault(
            f"'chosen' and 'rejected' answer different prompts ({shorten(chosen_prompt, 36)} and "
            f"{shorten(rejected_prompt, 36)}); both must start with the same messages"
        )
    task_id = optional_id(row, "task_id")
    shared = {key: row[key] for key in _SHARED_KEYS if key in row} | {"instruction": chosen_prompt}
    return [
        shared
        | {"output": output, "is_correct": is_correct}
        | ({"task_id": f"{task_id}-{side}"} if task_id is not None else {})
        for side, output, is_correct in (("chosen", chosen, True), ("rejected", rejected, False))
    ]


def _from_unpaired(row: Row) -> Row:
    prompt, output = _prompt_and_answer(row, "completion", "an unpaired row needs it")
    shared = {key: row[key] for key in (*_SHARED_KEYS, "task_id") if key in row}
    return shared | {
        "instruction": prompt,
        "output": output,
        "is_correct": optional_bool(row, "label"),
    }


def _prompt_and_answer(row: Row, key: str, need: str) -> tuple[str, str]:
    """Return the answer and its prompt, from 'prompt' or from the messages before the answer."""
    value = require(row, key, need)
    if not isinstance(value, list):
        prompt = require(row, "prompt", f"{key!r} is a string and does not say what it answers")
        return _prompt_text(prompt, "prompt"), to_answer(value, key)
    if not value or _role(value[-1], key) != "assistant":
        raise RowFault(
            f"{key!r} is {shorten(value)}; its last message must be the answer, of role 'assistant'"
        )
    answer = to_answer(value[-1]["content"], key)
    before = _prompt_text(value[:-1], key) if len(value) > 1 else None
    if before is not None and row.get("prompt") is None:
        return before, answer
    need = f"the messages of {key!r} hold no prompt before the answer"
    prompt = _prompt_text(require(row, "prompt", need), "prompt")
    if before is not None and before != prompt:
        raise RowFault(
            f"{key!r} starts with another prompt ({shorten(before, 36)}) than 'prompt' "
            f"({shorten(prompt, 36)}); drop one of the two"
        )
    return prompt, answer


def _prompt_text(value: object, key: str) -> str:
    """Return a prompt as text; messages are joined with an empty line between them."""
    if not isinstance(value, list):
        return to_text(value, key)
    roles = [_role(message, key) for message in value]
    if "assistant" in roles or "user" not in roles:
        raise RowFault(
            f"{key!r} has the roles {shorten(roles)} before the answer; only single-turn prompts "
            "can be judged: write the conversation into one message of role 'user'"
        )
    return "\n\n".join(to_text(message["content"], key) for message in value)


def _role(message: object, key: str) -> str:
    if isinstance(message, dict) and "content" in message:
        role = message.get("role")
        if isinstance(role, str):
            return role
    raise RowFault(
        f"{key!r} holds {describe(message)}; every message must be an object "
        "with 'role' and 'content'"
    )
