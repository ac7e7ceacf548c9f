"""How long answers were of late, and so how much longer those that run now will go on.

The window of recent lengths is that of the Past-Future scheduler (ASPLOS 2025), which draws each request's length from
it. Here the router knows only how many requests run, not how far each has got: among the running, in a steady state,
P(more than x to go) = sum(max(L - x, 0)) / sum(L), the residual life of a renewal process.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np

from shoal.router.foresight import Foresight

WINDOW = 1000
ENOUGH = 32
LEVELS = 8


class OutputLengths:
    """Sole owner of the recent lengths."""

    def __init__(self) -> None:
        self._tokens: deque[int] = deque(maxlen=WINDOW)

    def ended(self, new_tokens: int) -> None:
        self._tokens.append(new_tokens)

    def foresee(self, before: Foresight) -> Foresight:
        """`before` with what the window tells; unchanged while it tells too little."""
        if len(self._tokens) < ENOUGH or not any(self._tokens):
            return before
        lengths = np.sort(np.array(self._tokens, dtype=np.float64))[::-1]
        total, count = lengths.cumsum(), np.arange(1, len(lengths) + 1)
        to_go = np.append(lengths, 0.0)
        longer = np.append(total - count * lengths, total[-1]) / total[-1]  # share of the running with more than that
        shares = np.arange(1, LEVELS + 1) / LEVELS
        return replace(
            before, shares=shares, remaining_tokens=np.interp(shares, longer, to_go), new_tokens=lengths.mean()
        )

    def __len__(self) -> int:
        return len(self._tokens)


__all__ = ["ENOUGH", "LEVELS", "WINDOW", "OutputLengths"]
