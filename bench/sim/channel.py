"""What one instance tells one frontend, and when: the rule of the instance's reports, without their bytes.

Sent at the end of the step in which it is due: at once when there are tokens for that frontend and more is new than a
longer context, `COALESCE_S` after the last report when something else is new, else `HEARTBEAT_S` after it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from shoal.instance.model_cache import Change, Key
from shoal.router.contract import InstanceLoad

COALESCE_S = 0.05
HEARTBEAT_S = 0.25
AT_ONCE_S = 0.0

Changes = list[tuple[Change, list[Key]]]


class Report(NamedTuple):
    """`arrives_s`: when the frontend sees it. Lists hold request ids."""

    arrives_s: float
    instance: str
    load: InstanceLoad
    accepted: list[str]
    started: list[str]
    ended: list[str]
    changes: Changes


@dataclass(slots=True)
class Channel:
    """`streaming`: how many requests of that frontend are between first and last token here."""

    sent_s: float = 0.0
    news: bool = False
    streaming: int = 0
    accepted: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    changes: Changes = field(default_factory=list)

    def due_s(self) -> float:
        if not self.news:
            return self.sent_s + HEARTBEAT_S
        return AT_ONCE_S if self.streaming or self.started or self.ended else self.sent_s + COALESCE_S

    def take(self, instance: str, load: InstanceLoad, now_s: float, delay_s: float) -> Report:
        report = Report(now_s + delay_s, instance, load, self.accepted, self.started, self.ended, self.changes)
        self.sent_s, self.news = now_s, False
        self.accepted, self.started, self.ended, self.changes = [], [], [], []
        return report


__all__ = ["COALESCE_S", "HEARTBEAT_S", "Changes", "Channel", "Report"]
