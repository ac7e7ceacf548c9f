"""What a benchmark hands to the command line: its result, ready for JSON, and the exit code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MEASURED, INTERRUPTED = 0, 130


@dataclass(frozen=True, slots=True)
class Outcome:
    result: dict[str, Any]
    exit_code: int = MEASURED


__all__ = ["INTERRUPTED", "MEASURED", "Outcome"]
