"""Detection of texts that are too long for a model, without reading them to the end.

A tokenizer holds the GIL while it reads: up to 2.5 microseconds a character for the packaged one,
so a text of 2 MB would block all threads for seconds.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_CHARACTERS = 1_000_000
"""Maximum length of a text for a model of unknown window; a longer text has no vector.

More than today's largest windows hold; a function may need seconds for such a text."""

_FIRST, _GROWTH = 4, 4  # characters per token in the first piece; factor to the next piece
_MOST_A_TOKEN = 16  # characters per token; English has four or five
_MOST = 32_768  # characters that are read in any case
_SPACES = re.compile(r"[ \t\r\n]{2,}")
_SLICE = 65_536  # characters searched for white space at a time


def may_fit(text: str, window: int, count: Callable[[str], int]) -> bool:
    """Return whether a text may fit, so that it has to be tokenised in full.

    The function tokenises pieces from the text's beginning, each longer than the last. A piece with
    more than twice the window's tokens is proof that the text does not fit: the rest of the text
    may change the tokens at the piece's end, but in no tokenizer does it undo half of a piece. A
    text that has fewer, because most of it is dropped (control characters, marks, white space),
    does not fit beyond 32,768 characters, or 16 per token of the window if that is more: a reader
    would see far more than the model, so only an exact match is right.

    Args:
        text: The text.
        window: Number of tokens that the model reads.
        count: Returns the number of tokens of a text.
    """
    if len(text) > longest(window):
        return False
    size = _FIRST * window
    while size < len(text):
        if count(text[:size]) > 2 * window:
            return False
        size *= _GROWTH
    return True


def longest(window: int) -> int:
    """Return the maximum number of characters read of a text."""
    return max(_MOST_A_TOKEN * window, _MOST)


def squeezed(text: str, most: int) -> str:
    """Collapse each run of white space to one space, for models that ignore the difference.

    Args:
        text: The text.
        most: Wanted number of characters; a longer result may be cut off, but only beyond this.
    """
    pieces: list[str] = []
    size, ends_in_space = 0, False
    for at in range(0, len(text), _SLICE):
        piece = _SPACES.sub(" ", text[at : at + _SLICE])
        if ends_in_space and piece[0].isspace():
            piece = piece[1:]  # the run spans two slices
        pieces.append(piece)
        ends_in_space = text[min(at + _SLICE, len(text)) - 1].isspace()
        size += len(piece)
        if size > most:
            break
    return "".join(pieces)
