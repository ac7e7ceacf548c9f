"""OpenAI's batch format: lines of requests in, lines of answers out. Pure but for reading the two files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from shoal.proto.errors import InvalidArgument, NotFound

URLS = ("/v1/chat/completions", "/v1/completions", "/v1/responses")


class BatchRequest(NamedTuple):
    custom_id: str
    url: str
    body: dict[str, Any]

    @property
    def prompt(self) -> str:
        """What leads its tokens: requests that sort next to each other share the longest prefixes."""
        body = self.body
        return json.dumps([body.get("model"), body.get("messages") or body.get("prompt") or body.get("input")])


def read_requests(path: Path) -> list[BatchRequest]:
    """In order of their prompts, so that shared prefixes are computed once and are still cached when wanted again.
    Raises for the first line that is none."""
    if not path.is_file():
        raise NotFound(f"no file {path}")
    requests: dict[str, BatchRequest] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.strip():
            request = _request(number, line)
            if request.custom_id in requests:
                raise InvalidArgument(f"line {number}: custom_id", limit="given once", given=request.custom_id)
            requests[request.custom_id] = request
    return sorted(requests.values(), key=lambda request: request.prompt)


def _request(number: int, line: str) -> BatchRequest:
    try:
        fields = json.loads(line)
        custom_id, method, url, body = (fields[name] for name in ("custom_id", "method", "url", "body"))
    except (ValueError, KeyError, TypeError):
        limit = "an object with custom_id, method, url and body"
        raise InvalidArgument(f"line {number}", limit=limit, given=line[:80]) from None
    if method != "POST" or url not in URLS:
        raise InvalidArgument(f"line {number}: url", limit=f"POST to one of {', '.join(URLS)}", given=f"{method} {url}")
    if not isinstance(custom_id, str) or not isinstance(body, dict) or body.get("stream"):
        raise InvalidArgument(f"line {number}: body", limit="an object that does not stream", given=str(body)[:80])
    return BatchRequest(custom_id, url, body)


def answered(path: Path) -> set[str]:
    """Who has an answer there. A last line that was cut off counts for nothing."""
    found = set()
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            found.add(json.loads(line)["custom_id"])
        except (ValueError, KeyError, TypeError):
            continue
    return found


def answer_line(request: BatchRequest, request_id: str, status: int, body: Any) -> str:
    response = {"status_code": status, "request_id": request_id, "body": body}
    return json.dumps(
        {"id": f"batch_req_{request_id}", "custom_id": request.custom_id, "response": response, "error": None}
    )


def error_line(request: BatchRequest, code: str, message: str) -> str:
    error = {"code": code, "message": message}
    return json.dumps({"id": "", "custom_id": request.custom_id, "response": None, "error": error})


def left_over(requests: Iterable[BatchRequest], done: set[str]) -> list[BatchRequest]:
    return [request for request in requests if request.custom_id not in done]


__all__ = ["BatchRequest", "answer_line", "answered", "error_line", "left_over", "read_requests"]
