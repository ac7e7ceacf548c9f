"""A frontend has one link to every member that is ready, follows its standing, and goes on with the last membership
while nobody tells it one.
"""

import asyncio
import logging
from dataclasses import replace

import pytest

from shoal.bench.static_controller import StaticController
from shoal.proto.v1 import controller_pb2 as cpb
from shoal.router.view import Standing
from tests.tools.mini_cluster import MiniCluster, MiniFrontend, eventually


@pytest.fixture(autouse=True)
def our_words(caplog):
    """Whatever level an imported library gave the root logger."""
    caplog.set_level(logging.WARNING, "shoal")


def standing(frontend, name):
    return next(c.standing for c in frontend.dispatcher.view.candidates(0.0) if c.info.id == name)


async def published(cluster, **states):
    members = [life.member() for life in cluster.instances.values()]
    for member in members:
        member.state = states.get(member.id, member.state)
    await cluster.publish(members)


async def test_members_are_linked_when_they_become_ready_and_not_before():
    async with MiniCluster(2) as cluster:
        await published(cluster, i1="starting")
        frontend = cluster_frontend(cluster)
        await eventually(lambda: list(frontend.dispatcher.links) == ["i0"])
        assert "i1" not in frontend.watch.opening
        await published(cluster)
        await eventually(lambda: sorted(frontend.dispatcher.links) == ["i0", "i1"])


def cluster_frontend(cluster, **settings):
    """Without waiting for its links."""
    frontend = MiniFrontend(cluster, "f0", **settings)
    cluster.frontends.append(frontend)
    return frontend


@pytest.mark.parametrize(
    ("state", "expected"),
    [("fenced", Standing.FENCED), ("hung", Standing.FENCED), ("draining", Standing.DRAINING)],
)
async def test_a_members_standing_is_followed_without_touching_its_link(state, expected):
    async with MiniCluster(1) as cluster:
        frontend = await cluster.frontend()
        link = frontend.dispatcher.links["i0"]
        await published(cluster, i0=state)
        await eventually(lambda: standing(frontend, "i0") is expected)
        assert frontend.dispatcher.view.placeable == 0
        await published(cluster)
        await eventually(lambda: standing(frontend, "i0") is Standing.READY)
        assert frontend.dispatcher.links["i0"] is link


async def test_a_standing_that_changes_while_the_link_is_being_opened_counts():
    async with MiniCluster(1) as cluster:
        cluster.instances["i0"].freeze()
        frontend = cluster_frontend(cluster)
        await eventually(lambda: "i0" in frontend.watch.opening)
        await published(cluster, i0="draining")
        await eventually(lambda: frontend.watch.members["i0"].state == "draining")
        cluster.instances["i0"].thaw()
        await eventually(lambda: "i0" in frontend.dispatcher.links)
        assert standing(frontend, "i0") is Standing.DRAINING


async def test_serving_goes_on_while_the_controller_is_gone_and_its_return_is_noticed():
    async with MiniCluster(2) as cluster:
        frontend = await cluster.frontend()
        await eventually(lambda: frontend.watch.connected)
        await cluster.controller.stop()
        await eventually(lambda: not frontend.watch.connected)
        assert (await frontend.run("r", [1])).error is None
        await cluster.instances["i0"].proxy.drop_all()  # a lost line is opened again without it too
        await eventually(lambda: frontend.dispatcher.link_ends.total() == 1)
        await eventually(lambda: len(frontend.dispatcher.links) == 2)
        cluster.controller = StaticController()
        cluster.controller_address = await cluster.controller.start()
        await published(cluster, i1="draining")
        await eventually(lambda: standing(frontend, "i1") is Standing.DRAINING)


async def test_who_answers_at_a_dead_members_address_is_not_taken_for_it(caplog):
    async with MiniCluster(2) as cluster:
        i0, i1 = (cluster.instances[name].member() for name in ("i0", "i1"))
        i0.address = i1.address
        await cluster.publish([i0, i1])
        frontend = cluster_frontend(cluster)
        await eventually(lambda: "i0: 127.0.0.1" in caplog.text and "is i1 now" in caplog.text)
        assert "i0" not in frontend.dispatcher.links
        await published(cluster)
        await eventually(lambda: sorted(frontend.dispatcher.links) == ["i0", "i1"])


async def test_a_member_of_another_build_is_left_alone_until_it_is_another_process(caplog):
    async with MiniCluster(1) as cluster:
        engine = cluster.instances["i0"].engine
        engine.info = replace(engine.info, hash_seed="other")
        frontend = cluster_frontend(cluster)
        await eventually(lambda: ("i0", 1) in frontend.watch.refused)
        said = caplog.text.count("no link to i0")
        await asyncio.sleep(0.6)
        assert caplog.text.count("no link to i0") == said == 1
        assert "PYTHONHASHSEED" in caplog.text
        await cluster.instances["i0"].kill()
        await cluster.revive("i0")
        await eventually(lambda: "i0" in frontend.dispatcher.links)


async def test_a_welcome_that_makes_no_sense_is_tried_again(caplog):
    async with MiniCluster(1) as cluster:
        server = cluster.instances["i0"].server
        server.role = "boss"
        frontend = cluster_frontend(cluster)
        await eventually(lambda: "role 'boss'" in caplog.text)
        assert not frontend.dispatcher.links
        server.role = "mixed"
        await eventually(lambda: "i0" in frontend.dispatcher.links)


async def test_the_controller_hears_who_watches():
    async with MiniCluster(1) as cluster:
        await cluster.frontend("f7")
        assert cluster.controller.frontends == {"f7": cpb.FrontendInfo(id="f7")}


async def test_closing_leaves_no_task(caplog):
    caplog.set_level(logging.ERROR, "shoal")
    async with MiniCluster(1) as cluster:
        cluster.instances["i0"].freeze()
        frontend = cluster_frontend(cluster)
        await eventually(lambda: "i0" in frontend.watch.opening)
        await frontend.stop()
        assert not frontend.watch.tasks and not frontend.dispatcher.links
        cluster.instances["i0"].thaw()
    assert caplog.text == ""
