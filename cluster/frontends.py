"""Where the head meets Ray Serve: deploys the frontends, asks whether that failed for good, ends them."""

from __future__ import annotations

import contextlib
import logging

from ray import serve
from ray.serve.schema import ApplicationStatus

from shoal.proto.config import ClusterConfig

APPLICATION = "shoal"
_LOST = (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY)


def deploy_frontends(config: ClusterConfig) -> None:
    """Returns when they are asked for. They make themselves known to the controller when they serve."""
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    from shoal.cluster.frontend_deployment import deploy  # noqa: PLC0415 - a build without frontends can run the rest

    deploy(config)


def deploy_error() -> str:
    """Why Serve gave up on them, in one line, or nothing."""
    application = serve.status().applications.get(APPLICATION)
    if application is None or application.status not in _LOST:
        return ""
    words = [application.message, *(one.message for one in application.deployments.values())]
    lines = [line.strip() for text in words for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else str(application.status.value)


def shut_frontends() -> None:
    with contextlib.suppress(Exception):  # whatever Serve leaves, the supervisor ends
        serve.shutdown()


__all__ = ["APPLICATION", "deploy_error", "deploy_frontends", "shut_frontends"]
