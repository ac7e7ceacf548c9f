"""What Kubernetes runs in a pod before it ends it: `python -m shoal.cluster.pre_stop frontend SECONDS`.

A frontend's pod waits until its clients have had their answers. No new ones come: the pod has left its Service.
"""

from __future__ import annotations

import os
import sys
import time
import urllib.request
from collections.abc import Callable

POLL_S = 1.0
LEAVE_SERVICE_S = 5.0  # until every load balancer knows
OPEN_REQUESTS = "shoal_frontend_open_requests{"


def open_requests(page: str) -> float:
    return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(OPEN_REQUESTS))


def read_page(url: str) -> str:
    """Empty where nobody answers: a frontend that is gone has no clients."""
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return str(reply.read().decode())
    except OSError:
        return ""


def await_idle(page: Callable[[], str], wait_s: float, poll_s: float = POLL_S) -> bool:
    """True: nobody waits any more."""
    end_s = time.monotonic() + wait_s
    while open_requests(page()):
        if time.monotonic() > end_s:
            return False
        time.sleep(poll_s)
    return True


def main(arguments: list[str]) -> int:
    [_frontend, wait_s] = arguments
    time.sleep(LEAVE_SERVICE_S)
    url = f"http://{os.environ['SHOAL_NODE_ADDRESS']}:9400/metrics"
    return 0 if await_idle(lambda: read_page(url), float(wait_s)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
