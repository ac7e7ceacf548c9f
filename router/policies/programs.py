"""Rules of others that know sessions or programs. `home` is where a program's latest call was placed.

session_sticky   the first call to the fewest requests, every later one home
autellix         calls of at most 2,048 tokens to the fewest requests, longer ones home (Autellix, NSDI 2026)
"""

from __future__ import annotations

import numpy as np

from shoal.router.snapshot import Floats, Question

SHORT_TOKENS = 2048
_AWAY = 1e9  # more requests than anybody has


def session_sticky(question: Question) -> Floats:
    cost: Floats = question.snapshot.requests + _AWAY * away(question)
    return cost


def autellix(question: Question) -> Floats:
    if question.request.context_tokens <= SHORT_TOKENS:
        return question.snapshot.requests
    return session_sticky(question)


def away(question: Question) -> Floats:
    """1 for every row that is not its program's home; all 0 where it has none here."""
    home = question.programs.home(question.request.program)
    rows: Floats = np.array([info.id != home for info in question.members.infos], dtype=np.float64)
    return rows if not rows.all() else np.zeros(len(rows))


__all__ = ["SHORT_TOKENS", "autellix", "away", "session_sticky"]
