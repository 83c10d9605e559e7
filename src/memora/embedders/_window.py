"""Which texts are too long for a model, told without reading them to their end.

A tokenizer holds the interpreter's lock for as long as it reads: up to 2.5 microseconds a character
for the packaged one, so that a text of 2 MB would stop all threads for seconds.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_CHARACTERS = 1_000_000
"""Of a text for a model whose window is not known; what is longer has no vector.

More than the largest windows of today hold, and what a function may be busy with for seconds."""

_FIRST, _GROWTH = 4, 4  # characters a token of the first piece, and how much longer the next is
_MOST_A_TOKEN = 16  # characters a token; English has four or five
_MOST = 32_768  # characters that are read in any case
_SPACES = re.compile(r"[ \t\r\n]{2,}")
_SLICE = 65_536  # characters in which white space is looked for at once


def may_fit(text: str, window: int, count: Callable[[str], int]) -> bool:
    """Tell whether a text has to be tokenised in full; else it is longer than the window.

    Pieces from the text's beginning are tokenised, each longer than the last. One that has more
    than twice the tokens of the window settles it: the rest of the text may change how the end of
    the piece is cut into tokens, but no tokenizer lets that take back half of a piece. A text that
    has fewer, because most of it is dropped (control characters, marks, white space), is given up
    beyond 32,768 characters, or 16 a token of the window: a reader would see far more than the
    model, so that it is right to match it exactly only.

    Args:
        text: The text.
        window: Tokens that the model reads.
        count: Returns how many tokens a text has.
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
    """Return how many characters of a text are read at most."""
    return max(_MOST_A_TOKEN * window, _MOST)


def squeezed(text: str, most: int) -> str:
    """Return a text with one space for each run of white space, for models that see no difference.

    Args:
        text: The text.
        most: Characters that are wanted; of a longer text, more than that but not all is returned.
    """
    pieces: list[str] = []
    size, ends_in_space = 0, False
    for at in range(0, len(text), _SLICE):
        piece = _SPACES.sub(" ", text[at : at + _SLICE])
        if ends_in_space and piece[0].isspace():
            piece = piece[1:]  # one run, in two slices
        pieces.append(piece)
        ends_in_space = text[min(at + _SLICE, len(text)) - 1].isspace()
        size += len(piece)
        if size > most:
            break
    return "".join(pieces)
