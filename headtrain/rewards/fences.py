"""Takes the program out of an answer that talks about it."""

import re

_BLOCK = re.compile(r"^(`{3,}|~{3,})[^\n`]*\n(.*?)^\1[ \t]*$", re.MULTILINE | re.DOTALL)


def last_block(text: str) -> str | None:
    """Return the text of the last complete fenced block of a Markdown text; None without one."""
    blocks = _BLOCK.findall(text)
    return blocks[-1][1] if blocks else None
