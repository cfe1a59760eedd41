"""Messages of chats, in the forms that datasets have, as roles and texts."""

import re
from collections.abc import Sequence

import orjson

from featurize.data.fields import describe, to_text
from featurize.errors import RowFault, shorten

Message = tuple[str, str]
"""Role and text."""

_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant",
          "model": "assistant", "function_call": "assistant", "observation": "tool",
          "user": "user", "assistant": "assistant", "system": "system"}  # fmt: skip
_OF_ONE_TURN = {"system", "developer", "user"}
_FORMS = (("role", "content"), ("from", "value"))  # of OpenAI, and of ShareGPT
_TEXT_PARTS = ("text", "input_text", "output_text")
_UNREAD = {
    "tool_calls": "write the call into 'content'",
    "function_call": "write the call into 'content'",
    "reasoning_content": "write it into 'content', between <think> and </think>",
    "reasoning": "write it into 'content', between <think> and </think>",
    "thinking": "write it into 'content', between <think> and </think>",
    "refusal": "write it into 'content'",
}
"""Fields with a part of what was said, and what to do about them."""
_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_JSON_MESSAGES = re.compile(r"\s*\[?\s*\{\s*([\"'])(?:role|content|from|value)\1\s*:")


def is_transcript(text: str) -> bool:
    """Whether a text has the form of HH-RLHF: "Human:" turns and "Assistant:" turns."""
    return text.lstrip().startswith("Human:") and "\n\nAssistant:" in text


def to_messages(value: object, key: str) -> list[Message]:
    """Read one message, a list of them, or a transcript of "Human:" and "Assistant:" turns."""
    if isinstance(value, str):
        return _read_transcript(value, key)
    if not isinstance(value, (list, dict)):
        raise RowFault(f"{key!r} is {describe(value)}; it must be a message or a list of them")
    return [_to_message(one, key) for one in (value if isinstance(value, list) else [value])]


def parse_messages(value: object, key: str) -> object:
    """Parse a text that is a JSON message or list of messages; anything else stays as it is.

    Raises:
        RowFault: it begins like messages, but is not JSON.
    """
    if not isinstance(value, str) or not _JSON_MESSAGES.match(value):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise RowFault(
            f"{key!r} is {shorten(value)}, which begins like a list of messages but is not JSON "
            f"({error.msg.partition(':')[0]} at character {error.pos}); write it with json.dumps"
        ) from None


def is_open_transcript(text: str) -> bool:
    """Whether a text is a prompt of HH-RLHF: it ends with "Assistant:"."""
    return is_transcript(text) and text.rstrip().endswith("\n\nAssistant:")


def join_prompt(messages: list[Message], key: str) -> str:
    """Join the messages before an answer with an empty line between them.

    Raises:
        RowFault: the conversation has several turns, or no question.
    """
    roles = [role for role, _ in messages]
    if not _OF_ONE_TURN.issuperset(roles) or "user" not in roles:
        raise RowFault(
            f"{key!r} has the roles {shorten(roles)} before the answer; only single-turn prompts "
            "are supported: set prompt.format to chat, or write the conversation into one message "
            "of role 'user'"
        )
    return "\n\n".join(text for _, text in messages)


def keep_turns(messages: list[Message], key: str) -> str | list[dict[str, str]]:
    """Return the messages before an answer as they are; a single one of the user as its text.

    Raises:
        RowFault: they have no question, or end with an answer.
    """
    roles = [role for role, _ in messages]
    if "user" not in roles or roles[-1] == "assistant":
        raise RowFault(
            f"{key!r} has the roles {shorten(roles)} before the answer; a conversation needs a "
            "message of role 'user' and must not end with one of role 'assistant'"
        )
    if len(messages) == 1:
        return messages[0][1]
    return [{"role": role, "content": text} for role, text in messages]


def to_transcript(messages: Sequence[Message]) -> str:
    """Join messages to a text for people, with the role before each."""
    return "\n\n".join(f"{role}: {text}" for role, text in messages)


def _to_message(message: object, key: str) -> Message:
    if isinstance(message, dict):
        for role_name, text_name in _FORMS:
            role = message.get(role_name)
            if isinstance(role, str) and text_name in message:
                _refuse_unread(message, key)
                return _ROLES.get(role.lower(), role), _to_content(message[text_name], key)
    raise RowFault(
        f"{key!r} holds {describe(message)}; every message must be an object "
        "with 'role' and 'content', or 'from' and 'value'"
    )


def _refuse_unread(message: dict[str, object], key: str) -> None:
    """Raise RowFault if a part of a message would be dropped."""
    for name, remedy in _UNREAD.items():
        if message.get(name):
            raise RowFault(
                f"{key!r} holds a message with {name!r} ({shorten(message[name])}), which is not"
                f" read; {remedy}, or remove the field"
            )


def _to_content(content: object, key: str) -> str:
    """Return a text, or the joined texts of its parts."""
    if not isinstance(content, list):
        return to_text(content, key)
    return "".join(_to_part(part, key) for part in content)


def _to_part(part: object, key: str) -> str:
    if isinstance(part, dict) and part.get("type", "text") in _TEXT_PARTS and "text" in part:
        return to_text(part["text"], key)
    raise RowFault(
        f"{key!r} holds the part {describe(part)}; only parts of text can be scored, "
        'such as {"type": "text", "text": "..."}'
    )


def _read_transcript(text: str, key: str) -> list[Message]:
    """Split a text such as "\\n\\nHuman: Add.\\n\\nAssistant: a + b", the form of HH-RLHF."""
    _, *parts = _TURN.split(to_text(text, key))
    roles, texts = parts[::2], parts[1::2]
    return [
        ("user" if role == "Human" else "assistant", text.removeprefix(" "))
        for role, text in zip(roles, texts, strict=True)
    ]
