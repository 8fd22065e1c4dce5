"""The one error that a user sees."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AlphabarError(Exception):
    """Something the user can mend: one line that names the file, key or value, and the fix.

    The command line prints it without a traceback and exits with 2.
    """


def nearest(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` when a known word is close, else the known words listed."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
