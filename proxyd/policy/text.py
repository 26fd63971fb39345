"""Text from outside made safe to show: no line break, cursor movement or turned direction gets out (ATTACKS 9)."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with whatever is not printable escaped, so that it is one line of what it seems to be."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
