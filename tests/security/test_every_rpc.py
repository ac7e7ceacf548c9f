"""No method of any service answers without the right token, at the doors that production opens. The running cluster's
doors are tried in tests/e2e/test_strangers.py.
"""

import asyncio
import json
from contextlib import asynccontextmanager
from types import SimpleNamespace

import grpc
import pytest

from shoal.cluster.admin_gate import ACTS, INNER_METHODS, READS, AdminGate, InnerGate
from shoal.cluster.controller_service import ControllerService, serve
from shoal.cluster.inner_service import InnerServer
from shoal.cluster.stories import Stories
from shoal.instance import actor as actor_module
from shoal.instance.actor import InstanceActor
from shoal.instance.auth import token_metadata
from shoal.instance.inner_tls import PLAIN
from shoal.router.pilot import Pilot
from shoal.router.profile import build_policy
from tests.cluster.grpc_api.stubs import RED, StubEngine
from tests.cluster.grpc_api.stubs import serving as serving_api
from tests.instance.pool.pools import TOKEN as POOL_TOKEN
from tests.instance.pool.pools import serving as serving_pool
from tests.security.every_rpc import ask, methods_of, services

TOKEN = "token of the cluster"


class NoController:
    """The service asks it nothing before a gate has let somebody in."""

    changed = None
    lives = SimpleNamespace(pools=set, token="", tls=PLAIN)


@asynccontextmanager
async def instance(monkeypatch):
    monkeypatch.setattr(actor_module, "lead_process_group", lambda: None)
    monkeypatch.setattr(actor_module.sys, "setswitchinterval", lambda _: None)
    actor = InstanceActor(json.dumps({"engine": {"kind": "fake"}}), TOKEN)
    yield (await actor.start("i0", 1, None))["address"]
    await actor.stop()


@asynccontextmanager
async def frontend(monkeypatch):
    server = await InnerServer.start(Stories(), Pilot(build_policy("least_work")), "127.0.0.1", TOKEN)
    yield server.address
    await server.stop()


@asynccontextmanager
async def controller(monkeypatch, gate=None):
    gate = gate or InnerGate(TOKEN)
    server, address = await serve(ControllerService(NoController()), "127.0.0.1:0", gate)
    yield address
    await server.stop(None)


def admin(monkeypatch):
    return controller(monkeypatch, AdminGate(TOKEN, {}))


@asynccontextmanager
async def pool(monkeypatch):
    with serving_pool() as one:
        yield one.address


@asynccontextmanager
async def api(monkeypatch):
    async with serving_api(StubEngine()) as server:
        yield f"127.0.0.1:{server.port}"


def bearer(key):
    return (("authorization", f"Bearer {key}"),)


DOORS = {
    "Instance": (instance, token_metadata(TOKEN)),
    "Frontend": (frontend, token_metadata(TOKEN)),
    "Controller": (controller, token_metadata(TOKEN)),
    "Controller, admin": (admin, token_metadata(TOKEN)),
    "Pool": (pool, token_metadata(POOL_TOKEN)),
    "Inference": (api, RED),
}
STRANGERS = ((), token_metadata(""), token_metadata("wrong"), bearer("wrong"), bearer(TOKEN))


def test_there_is_a_door_here_for_every_service():
    assert {name.removeprefix("shoal.v1.") for name in services()} == {name.split(",")[0] for name in DOORS}


@pytest.mark.parametrize("door", DOORS)
async def test_no_method_answers_a_stranger_and_every_one_knows_its_own(monkeypatch, door):
    opened, ours = DOORS[door]
    service = door.split(",")[0]
    async with opened(monkeypatch) as address:
        with grpc.insecure_channel(address) as channel:
            for method in [*methods_of(service), "Invented"]:
                heard = [await asyncio.to_thread(ask, channel, service, method, who) for who in STRANGERS]
                invented = {"UNIMPLEMENTED"} if door == "Inference" and method == "Invented" else set()
                assert set(heard) == invented or set(heard) == {"UNAUTHENTICATED"}, (method, heard)
            known = methods_of(service)[0]
            if service != "Controller":  # this one has nothing behind it
                assert await asyncio.to_thread(ask, channel, service, known, ours) != "UNAUTHENTICATED"


@pytest.mark.parametrize(("door", "allowed"), [("Controller", INNER_METHODS), ("Controller, admin", READS | ACTS)])
async def test_each_port_of_the_controller_has_its_own_methods(monkeypatch, door, allowed):
    opened, ours = DOORS[door]
    async with opened(monkeypatch) as address:
        with grpc.insecure_channel(address) as channel:
            for method in set(methods_of("Controller")) - allowed:
                heard = await asyncio.to_thread(ask, channel, "Controller", method, ours)
                assert heard == "PERMISSION_DENIED", method
