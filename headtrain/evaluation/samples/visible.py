"""Makes text from elsewhere safe to show: nothing in it moves a cursor or turns a line around."""

import unicodedata

_KEPT = "\n\t"
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def to_visible(text: str) -> str:
    """The text with control and formatting characters replaced, but for new lines and tabs.

    Escape sequences would write over a terminal; direction marks and zero-width characters would
    show a program that is not the one that was judged.
    """
    text = text.replace("\r\n", "\n")
    return "".join(
        character
        if character in _KEPT or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co")
        else _REPLACEMENT
        for character in text
    )
