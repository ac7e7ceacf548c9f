"""A request that killed twice stays away for a while, and the list of such requests stays small."""

from shoal.cluster.quarantine import MAX_ENTRIES, QUARANTINE_S, Quarantine


def test_it_holds_a_fingerprint_until_its_time_is_over_and_then_forgets_it():
    quarantine = Quarantine()
    quarantine.add(b"x", now_s=100.0)
    assert quarantine.holds(b"x", 100.0) and quarantine.holds(b"x", 99.9 + QUARANTINE_S)
    assert not quarantine.holds(b"y", 100.0)
    assert not quarantine.holds(b"x", 100.0 + QUARANTINE_S)
    assert not quarantine.until_s


def test_another_crash_begins_the_time_anew():
    quarantine = Quarantine()
    quarantine.add(b"x", now_s=0.0)
    quarantine.add(b"x", now_s=QUARANTINE_S - 1)
    assert quarantine.holds(b"x", QUARANTINE_S + 1)


def test_it_is_bounded_and_the_oldest_leaves_first():
    quarantine = Quarantine()
    for n in range(MAX_ENTRIES):
        quarantine.add(b"%d" % n, now_s=float(n))
    quarantine.add(b"0", now_s=5000.0)  # the oldest becomes the youngest
    quarantine.add(b"new", now_s=5000.0)
    assert len(quarantine.until_s) == MAX_ENTRIES
    assert quarantine.holds(b"0", 5001.0) and quarantine.holds(b"new", 5001.0)
    assert not quarantine.holds(b"1", 100.0)
