"""The console as the real frontends serve it: the page to everybody, what it shows and does to an admin key only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Cluster

ADA = {"authorization": "Bearer key-of-ada"}


@pytest.fixture
def admin(cluster: Cluster) -> dict[str, str]:
    (token,) = (cluster.shoal.folder / "run").rglob("token")
    return {"authorization": f"Bearer {token.read_text()}"}


@contextmanager
def pictures(cluster: Cluster, headers: dict[str, str]) -> Iterator[Iterator[Any]]:
    with httpx.stream("GET", f"{cluster.url}/console/events", headers=headers, timeout=30) as reply:
        reply.raise_for_status()
        yield (json.loads(line[6:]) for line in reply.iter_lines() if line.startswith("data: {"))


def where(picture: Any) -> dict[str, str]:
    """Request -> the instance that it sits on."""
    return {guest[0]: one["id"] for one in picture["instances"] for guest in one["guests"]}


def act(cluster: Cluster, headers: dict[str, str], **words: str) -> httpx.Response:
    return httpx.post(f"{cluster.url}/console/act", headers=headers, json=words, timeout=30)


def test_the_page_is_there_and_a_tenants_key_shows_nothing(cluster: Cluster) -> None:
    assert "<title>Shoal console</title>" in httpx.get(f"{cluster.url}/console", timeout=30).text
    for headers in ({}, ADA):
        assert httpx.get(f"{cluster.url}/console/events", headers=headers, timeout=30).status_code == 401


def test_an_admin_moves_a_running_request_and_is_shown_where_it_was_and_nobody_else_can(
    cluster: Cluster, admin: dict[str, str]
) -> None:
    endless = {"max_tokens": 3000, "stream": True, "extra_body": {"ignore_eos": True}}
    with cluster.openai().completions.create(model="tiny", prompt="A fish", **endless) as stream:
        next(iter(stream))
        with pictures(cluster, admin) as seen:
            first = next(one for one in seen if where(one))
            assert sorted(one["id"] for one in first["instances"]) == ["i0", "i1"] and first["frontends"] == 2
            ((moved, source),) = where(first).items()
            target = {"i0": "i1", "i1": "i0"}[source]
            move_it = {"act": "Migrate", "request_id": moved, "target": target}
            assert [act(cluster, who, **move_it).status_code for who in ({}, ADA)] == [401, 401]
            assert "committed" in act(cluster, admin, **move_it).raise_for_status().json()["words"]
            assert next(one for one in seen if where(one).get(moved) == target)
            explain = f"{cluster.url}/console/explain"
            told = httpx.get(explain, params={"request": moved}, headers=admin, timeout=30).raise_for_status().json()
            assert [stay["instance"] for stay in told["stays"]] == [source, target]
    cluster.await_idle()
