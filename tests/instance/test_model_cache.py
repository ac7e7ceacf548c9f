"""The ledger of the step model: what is free, what is cached, and that a wrong count cannot pass for a right one."""

import pytest

from shoal.instance.model_cache import BrokenLedger, Change, Holding, ModelCache


def filled(cache: ModelCache, *keys: str) -> Holding:
    holding = Holding([])
    cache.take(holding, len(keys))
    for key in keys:
        cache.seal(holding, key)
    return holding


def test_released_contents_stay_until_their_room_is_needed_oldest_and_last_first() -> None:
    cache = ModelCache(5, record_changes=True)
    cache.release(filled(cache, "a", "ab"))
    cache.release(filled(cache, "x", "xy"))
    assert (cache.free, cache.blank, cache.cached) == (5, 1, 4)
    cache.take(Holding([]), 3)
    assert cache.take_changes() == [(Change.STORED, ["a", "ab", "x", "xy"]), (Change.REMOVED, ["ab", "a"])]


def test_a_hit_renews_what_it_shares() -> None:
    cache = ModelCache(2, record_changes=True)
    cache.release(filled(cache, "old"))
    cache.release(filled(cache, "new"))
    user = Holding([])
    assert (cache.match(["old", "gone"], 2), cache.cost(["old"], 1)) == (1, 1)
    cache.share(user, ["old"])
    cache.release(user)
    cache.take(Holding([]), 1)
    assert cache.take_changes()[-1] == (Change.REMOVED, ["new"])


def test_shared_contents_are_free_only_when_the_last_holder_has_gone() -> None:
    cache = ModelCache(2, record_changes=False)
    first = filled(cache, "a")
    second = Holding([])
    cache.share(second, ["a"])
    cache.release(first)
    assert cache.free == 1
    cache.check([second])
    cache.release(second)
    assert cache.free == 2


def test_a_second_copy_takes_room_while_held_and_is_reported_once() -> None:
    cache = ModelCache(4, record_changes=True)
    first, second = filled(cache, "a"), filled(cache, "a")
    assert (cache.free, second.private) == (2, 1)
    cache.check([first, second])
    cache.release(first)
    cache.release(second)
    assert (cache.free, cache.cached) == (4, 1)
    assert cache.take_changes() == [(Change.STORED, ["a"])]


def test_taking_more_than_is_free_changes_nothing_and_raises() -> None:
    cache = ModelCache(2, record_changes=False)
    holding = filled(cache, "a")
    with pytest.raises(BrokenLedger):
        cache.take(holding, 2)
    cache.check([holding])


@pytest.mark.parametrize("forgery", [Holding([], 1), Holding(["a"], 0), Holding(["b"], 0), Holding([], -1)])
def test_a_holding_that_the_cache_did_not_give_is_found_out(forgery: Holding) -> None:
    cache = ModelCache(3, record_changes=False)
    honest = filled(cache, "a")
    cache.check([honest])
    with pytest.raises(BrokenLedger):
        cache.check([honest, forgery])
    with pytest.raises(BrokenLedger):
        cache.check([])
