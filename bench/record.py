"""What the client saw of one request. Written by exactly one client task, read by everybody after it.

Times are seconds on time.perf_counter. A chunk is one message of the stream; it may carry several tokens, and all of
them arrived then.

An error kind is one of a short list, fit for counting:
  connect        no connection could be made
  disconnect     the connection broke in the middle
  truncated      the stream ended without its end mark, or with fewer tokens than were due
  stream_error   the server reported an error inside the stream, or finished it by `abort` or `error`
  bad_reply      bytes that are no OpenAI stream
  timeout        the request's, or the whole run's, time was over
  interrupted    the run was stopped by hand
  http_NNN       the server refused with this status
  grpc_NAME      likewise in gRPC, e.g. grpc_RESOURCE_EXHAUSTED
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from shoal.bench.workload import LoadRequest


class End(Enum):
    """How it ended; PENDING until then."""

    PENDING = "pending"
    COMPLETED = "completed"
    FAILED = "failed"
    HUNG_UP = "hung_up"


@dataclass(slots=True)
class Record:
    request: LoadRequest
    due_s: float = 0.0
    sent_s: float = 0.0
    finished_s: float = 0.0
    chunk_s: list[float] = field(default_factory=list)
    chunk_tokens: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    end: End = End.PENDING
    error_kind: str = ""
    error_text: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    instance: str = ""
    retries: int = 0
    retry_after_s: float | None = None  # as the last refusal said

    @property
    def output_tokens(self) -> int:
        return sum(self.chunk_tokens)

    @property
    def ttft_s(self) -> float:
        return self.chunk_s[0] - self.sent_s if self.chunk_s else 0.0

    @property
    def latency_s(self) -> float:
        return self.finished_s - self.sent_s

    @property
    def tpot_s(self) -> float | None:
        """From the first token to the end, per later token; None of a single token."""
        tokens = self.output_tokens
        return (self.chunk_s[-1] - self.chunk_s[0]) / (tokens - 1) if tokens > 1 else None

    @property
    def gaps_s(self) -> list[float]:
        return [after - before for before, after in zip(self.chunk_s, self.chunk_s[1:], strict=False)]

    @property
    def lateness_s(self) -> float:
        """How much later than due the generator sent it: its own fault, not the server's."""
        return max(0.0, self.sent_s - self.due_s)

    def add_chunk(self, now_s: float, tokens: int) -> None:
        self.chunk_s.append(now_s)
        self.chunk_tokens.append(tokens)

    def complete(self, now_s: float) -> None:
        self.end, self.finished_s = End.COMPLETED, now_s

    def hang_up(self, now_s: float) -> None:
        self.end, self.finished_s = End.HUNG_UP, now_s

    def fail(self, now_s: float, kind: str, text: str = "") -> None:
        self.end, self.finished_s, self.error_kind, self.error_text = End.FAILED, now_s, kind, text[:300]


__all__ = ["End", "Record"]
