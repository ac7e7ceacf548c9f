"""What a pool's page says is what its books hold."""

from __future__ import annotations

import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from shoal.instance.pool.metrics import serve_pool_metrics
from shoal.instance.pool.peer import PROBE_BLOCKS
from shoal.proto.v1 import pool_pb2 as pb
from tests.instance.pool.pools import Served, introduce, keys, serving, sizes


class Page:
    """What the page of a pool says now."""

    def __init__(self, pool: Served) -> None:
        url, server = serve_pool_metrics(pool.service, "127.0.0.1")
        try:
            with urllib.request.urlopen(url, timeout=10) as page:
                families = list(text_string_to_metric_families(page.read().decode()))
        finally:
            server.shutdown()
            server.server_close()
        self.samples = [sample for family in families for sample in family.samples]

    def of(self, name: str, *, by: str) -> dict[str, float]:
        """Values by one label."""
        return {one.labels[by]: one.value for one in self.samples if one.name == f"shoal_pool_{name}"}

    def value(self, name: str) -> float:
        (sample,) = (one for one in self.samples if one.name == f"shoal_pool_{name}")
        return float(sample.value)


def test_slots_and_what_became_of_blocks_are_counted():
    with serving(made=sizes(2, slots=8)) as one:
        one.save(range(5), tenant="a")
        one.save(range(5, 8), tenant="b")
        one.load(range(3))
        assert one.pool.client.call("Lease", pb.Run(keys=keys([6]), wait_s=9.0)).blocks
        page = Page(one)
    used = PROBE_BLOCKS + 8
    assert page.of("total_blocks", by="tier") == {"memory": 16, "disk": 0}
    assert page.of("free_blocks", by="tier") == {"memory": 16 - used, "disk": 0}
    assert page.of("blocks", by="state") == {"leased": PROBE_BLOCKS + 1, "hot": 3}
    assert page.value("largest_tenant_blocks") == 5
    events = page.of("block_events_total", by="event")
    assert (events["stored"], events["leased"]) == (used, PROBE_BLOCKS + 3 + 1)


def test_what_a_full_pool_refuses_is_counted():
    with serving(made=sizes(1, slots=PROBE_BLOCKS + 2)) as one:
        assert one.save([1, 2]) == [True, True]
        assert one.pool.client.call("Lease", pb.Run(keys=keys([1, 2]), wait_s=9.0)).blocks
        assert one.save([3, 4, 5]) == [False] * 3
        assert Page(one).of("block_events_total", by="event")["refused"] == 3


def test_every_path_to_a_peer_has_its_rate_and_one_is_chosen_until_it_fails():
    with serving("n1") as one, serving("n2") as two:
        introduce(one, two)
        assert Page(one).of("path_gib_per_s", by="path") == {}, "nobody has asked for it yet"
        peer = one.service.peers["n2"]
        peer.probe()
        page = Page(one)
        rates = page.of("path_gib_per_s", by="path")
        assert rates.keys() == {"arena", "stream"} and min(rates.values()) > 0
        fastest = max(rates, key=rates.__getitem__)
        assert page.of("path_chosen", by="path") == {path: path == fastest for path in rates}
        (left,) = rates.keys() - {fastest}
        peer.rates.fell(fastest)
        page = Page(one)
        assert page.of("path_falls_total", by="path") == {fastest: 1}
        assert page.of("path_falls_total", by="to") == {left: 1}
        assert page.of("path_chosen", by="path") == {left: 1}
