"""Log lines of frontends and the controller: text, or one JSON object a line. Each ended request is one line of
`shoal.requests`, at level INFO. Prompts and tokens are in none of them.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from shoal.cluster.journal import Outcome, Ticket
from shoal.cluster.request_context import RequestContext, current_request

TEXT = "%(asctime)s %(name)s %(message)s"
requests = logging.getLogger("shoal.requests")


class JsonLines(logging.Formatter):
    """A line names the request that is being served where it was written, if any."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (context := current_request.get()) is not None:
            line |= {"request_id": context.request_id, "tenant": context.tenant}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def set_up_logs(form: str, level: int) -> None:
    """On stderr, where Ray and Kubernetes pick them up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else logging.Formatter(TEXT))
    logging.basicConfig(handlers=[handler], level=level)


def log_end(ticket: Ticket, context: RequestContext, outcome: Outcome, now_s: float) -> None:
    """The client knows the request by `context.request_id`, the engines by `ticket.request_id`."""
    if not requests.isEnabledFor(logging.INFO):
        return
    fields = {
        "request_id": context.request_id,
        "engine_request_id": ticket.request_id,
        "tenant": context.tenant,
        "instance": context.instance,
        "outcome": outcome.value,
        "prompt_tokens": ticket.route.context_tokens,
        "output_tokens": len(ticket.delivered),
        "moves": len(ticket.moves),
        "took_s": round(now_s - ticket.route.arrived_s, 3),
    }
    if context.error is not None:
        fields["error"] = type(context.error).__name__
    words = "request %s ended: %s, %d tokens, on %s"
    requests.info(
        words, context.request_id, outcome.value, len(ticket.delivered), context.instance, extra={"fields": fields}
    )


__all__ = ["JsonLines", "log_end", "requests", "set_up_logs"]
