from shoal.bench.sim.links import Links


def links() -> Links:
    return Links(bytes_per_s=1000.0, setup_s=0.5)


def test_transfers_wait_for_the_way_out_of_their_source_and_into_their_target():
    wires = links()
    assert wires.transfer("a", "b", 1000, 10.0) == 11.5
    assert wires.transfer("a", "c", 1000, 10.0) == 13.0  # a's way out is taken
    assert wires.transfer("d", "b", 2000, 10.0) == 14.0  # b's way in is taken
    assert wires.transfer("b", "a", 1000, 10.0) == 11.5  # the other directions are free
    assert wires.carried_bytes == 5000


def test_how_long_one_would_wait_is_known_beforehand():
    wires = links()
    wires.transfer("a", "b", 1000, 10.0)
    assert (wires.queued_s("a", "c", 10.5), wires.queued_s("c", "b", 12.0)) == (1.0, 0.0)
