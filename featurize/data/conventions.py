"""Rows of other conventions, turned into plain rows.

Preference, unpaired and conversational rows, as TRL, LLaMA-Factory, axolotl and HH-RLHF have them.
"""

from featurize.data.fields import (
    Row,
    describe,
    optional_bool,
    optional_id,
    optional_text,
    require,
    to_answer,
    to_text,
)
from featurize.data.messages import (
    Message,
    is_open_transcript,
    is_transcript,
    join_prompt,
    keep_turns,
    parse_messages,
    to_messages,
)
from featurize.data.verdicts import label_of, refuse_unread
from featurize.errors import RowFault, shorten

_SIDES = ("chosen", "rejected")
_MEDIA = ("images", "videos", "audios")
_SHARED_KEYS = ("input", "problem_id", "metadata")
_CONVERSATIONS = ("conversations", "messages")
PROMPT_FIELDS = ("prompt", "instruction", *_CONVERSATIONS, "system", "history")
"""Fields that a prompt is read from."""
REFUSED_FIELDS = (*_MEDIA, "tools")
"""Fields that a row must not have: what they say would not be read."""


Prompt = str | list[dict[str, str]]
"""A text, or the messages of a conversation."""


def to_plain_rows(row: Row, *, keeps_turns: bool = False) -> list[Row]:
    """Return the plain rows of a row: two for a preference row, else one.

    Prompts of several messages become one text, or with `keeps_turns` stay messages.

    Raises:
        RowFault: a field is missing or wrong, or the row has a label that is not read.
    """
    _refuse_media(row)
    for is_there in (lambda name: row.get(name) is not None, row.__contains__):
        if is_there("output"):
            break
        if is_there("chosen") or is_there("rejected"):
            return _from_preference(row, keeps_turns)
        if is_there("completion"):
            return [_from_unpaired(row, keeps_turns)]
        if not is_there("instruction") and any(map(is_there, _CONVERSATIONS)):
            return [_from_conversation(row, keeps_turns)]
    if _read_label(row, "is_correct") is None and all(row.get(side) for side in _SIDES):
        raise RowFault(
            f"'output' is {describe(row['output'])} beside 'chosen' and 'rejected', which would "
            "not be read; drop it, or drop these two"
        )
    return [_with_context(row, keeps_turns)]


def _refuse_media(row: Row) -> None:
    """Raise RowFault if a row has images or the like: only the text would be read."""
    for name in _MEDIA:
        if isinstance(row.get(name), list) and row[name]:
            raise RowFault(
                f"{name!r} is {describe(row[name])}; only text can be scored: drop the row, or the "
                "column if the answer does not depend on it"
            )


def _with_context(row: Row, keeps_turns: bool) -> Row:
    """Put the fields `system` and `history` of LLaMA-Factory before the instruction."""
    system, history = row.get("system"), row.get("history")
    has_system = isinstance(system, str) and system.strip()
    has_history = isinstance(history, list) and history and all(map(_is_pair, history))
    if row.get("instruction") is None or not (has_system or has_history):
        return row
    context = {
        "instruction": row["instruction"],
        "system": system if has_system else None,
        "history": history if has_history else None,
    }
    return {**row, "instruction": _prompt_of(context, "instruction", "", keeps_turns)}


def _from_preference(row: Row, keeps_turns: bool) -> list[Row]:
    """Return `chosen` as a correct answer and `rejected` as an incorrect one."""
    if row.get("is_correct") is not None:
        raise RowFault(
            f"'is_correct' is {shorten(row['is_correct'])} beside 'chosen' and 'rejected', which "
            "are labels themselves; drop one of them"
        )
    _refuse_tools(row)
    need = "a preference row needs both 'chosen' and 'rejected'"
    chosen_prompt, chosen = _prompt_and_answer(row, "chosen", need, keeps_turns)
    rejected_prompt, rejected = _prompt_and_answer(row, "rejected", need, keeps_turns)
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
        | _author_of(row, side)
        | ({"task_id": f"{task_id}-{side}"} if task_id is not None else {})
        for side, output, is_correct in (("chosen", chosen, True), ("rejected", rejected, False))
    ]


def _author_of(row: Row, side: str) -> dict[str, object]:
    """Return metadata with the author of one side, if a column such as `chosen_model` names it."""
    metadata = row.get("metadata") or {}
    if not isinstance(metadata, dict):
        return {}
    name = f"{side}_model"
    author = row.get(name, metadata.get(name))
    return {} if author is None else {"metadata": {**metadata, "author": author}}


def _from_unpaired(row: Row, keeps_turns: bool) -> Row:
    _refuse_tools(row)
    need = "an unpaired row needs it"
    return _with_label(row, *_prompt_and_answer(row, "completion", need, keeps_turns))


def _from_conversation(row: Row, keeps_turns: bool) -> Row:
    """Return the last message as an answer to those before it."""
    _refuse_tools(row)
    key = _conversation_of(row) or next(name for name in _CONVERSATIONS if name in row)
    before, answer = _split_answer(to_messages(parse_messages(row[key], key), key), key)
    return _with_label(row, _with_system(row, before, key, keeps_turns), answer)


def _refuse_tools(row: Row) -> None:
    """Raise RowFault if a conversation has tools, which a chat template would write."""
    if row.get("tools") and row["tools"] != "[]":
        raise RowFault(
            f"'tools' is {describe(row['tools'])}, which is not read; write the tools into the "
            "system message, or drop the column"
        )


def _conversation_of(row: Row) -> str | None:
    return next((name for name in _CONVERSATIONS if row.get(name) is not None), None)


def _with_label(row: Row, prompt: Prompt, answer: str) -> Row:
    shared = {key: row[key] for key in (*_SHARED_KEYS, "task_id") if key in row}
    label = _read_label(row, "label", "is_correct")
    return shared | {"instruction": prompt, "output": answer, "is_correct": label}


def _read_label(row: Row, *names: str) -> object:
    """Return the label; refuse a row with another one, or with one that is not read."""
    name, label = label_of(row, names)
    others = {other: value for other, value in row.items() if other != name}
    refuse_unread(others, label)
    return optional_bool(row, name)


def _prompt_and_answer(row: Row, key: str, need: str, keeps_turns: bool) -> tuple[Prompt, str]:
    """Return the answer and its prompt, from its own field or the messages before the answer."""
    value = _parse_answer(require(row, key, need), key)
    name = next((name for name in ("prompt", "instruction") if row.get(name) is not None), None)
    is_text = isinstance(value, str) and not (name is None and is_transcript(value))
    if is_text or not isinstance(value, (str, list, dict)):
        answer = to_answer(value, key)
        need = f"{key!r} is a string and does not say what it answers"
        return _prompt_of(row, name, need, keeps_turns), _after_transcript(row, name, answer)
    before, answer = _split_answer(to_messages(value, key), key)
    if not before:
        need = f"the messages of {key!r} hold no prompt before the answer"
        return _prompt_of(row, name, need, keeps_turns), answer
    own = _with_system(row, before, key, keeps_turns)
    if name is not None and own != (prompt := _prompt_of(row, name, "", keeps_turns)):
        raise RowFault(
            f"{key!r} starts with another prompt ({shorten(own, 36)}) than {name!r} "
            f"({shorten(prompt, 36)}); drop one of the two"
        )
    return own, answer


def _split_answer(messages: list[Message], key: str) -> tuple[list[Message], str]:
    """Split the last message, which must be an answer, from those before it."""
    if not messages or messages[-1][0] != "assistant":
        shown = shorten([{"role": role, "content": text} for role, text in messages])
        raise RowFault(
            f"{key!r} is {shown}; its last message must be the answer, of role 'assistant'"
        )
    return messages[:-1], to_answer(messages[-1][1], key)


def _prompt_of(row: Row, name: str | None, need: str, keeps_turns: bool) -> Prompt:
    """Return the prompt that field `name` holds, or a conversation if that is None."""
    name = name or _conversation_of(row) or "prompt"
    value = parse_messages(require(row, name, need), name)
    if isinstance(value, str) and is_open_transcript(value):
        messages = to_messages(value, name)[:-1]
    elif isinstance(value, (list, dict)):
        messages = to_messages(value, name)
    else:
        messages = [("user", to_text(value, name))]
    return _with_system(row, messages, name, keeps_turns)


def _parse_answer(value: object, key: str) -> object:
    """Parse an answer that is JSON: messages that end with one of role 'assistant'."""
    try:
        parsed = parse_messages(value, key)
        messages = [] if parsed is value else to_messages(parsed, key)
    except RowFault:
        return value  # a text
    return parsed if messages and messages[-1][0] == "assistant" else value


def _after_transcript(row: Row, name: str | None, answer: str) -> str:
    """Remove the space that follows "Assistant:" where the prompt ends with it."""
    prompt = row.get(name or "prompt")
    is_open = isinstance(prompt, str) and is_open_transcript(prompt)
    return answer.removeprefix(" ") if is_open else answer


def _with_system(row: Row, messages: list[Message], key: str, keeps_turns: bool) -> Prompt:
    """Join a prompt with the fields `system` and `history` of LLaMA-Factory."""
    before = _read_history(row, key, keeps_turns)
    system = optional_text(row, "system")
    has_system = any(
        role == "system" or text.startswith(system.strip()) for role, text in messages[:1]
    )
    first = [("system", system)] if system.strip() and not has_system else []
    return (keep_turns if keeps_turns else join_prompt)([*first, *before, *messages], key)


def _read_history(row: Row, key: str, keeps_turns: bool) -> list[Message]:
    """Read the pairs of a question and an answer before the prompt; refuse them in one text."""
    history = row.get("history")
    if not history:
        return []
    if not keeps_turns:
        raise RowFault(
            f"'history' is {shorten(row['history'])}; only single-turn prompts are supported: "
            f"set prompt.format to chat, write the conversation into {key!r}, or drop the column"
        )
    if not isinstance(history, list) or not all(map(_is_pair, history)):
        raise RowFault(
            f"'history' is {shorten(history)}; it must be a list of pairs [question, answer]"
        )
    return [
        (role, to_text(text, "history"))
        for pair in history
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2
