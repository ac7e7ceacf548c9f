"""Which slots there shall be: the acts of people (scale, drain, restart) and of autoscaling, as changes of one value.

Whoever is not wanted any more is drained: it gives its requests away, then stops. A rolling restart adds a new
instance, waits until it is ready, drains the oldest, and so on; it gives up where a new one cannot start, with the old
ones still serving.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count

from shoal.cluster.member import InstanceState
from shoal.proto.errors import InvalidArgument, NotFound

MAX_INSTANCES = 4096
GONE_WRONG = (InstanceState.QUARANTINED, InstanceState.DEAD)
States = Mapping[str, InstanceState]  # of all slots that exist, wanted or not


@dataclass(frozen=True, slots=True)
class Fleet:
    """See Desired for what the fields mean."""

    wanted: tuple[str, ...]
    retiring: tuple[str, ...] = ()
    replacement: str = ""

    @property
    def words(self) -> str:
        return f"restarting, {len(self.retiring)} to go" if self.retiring else ""


def first_fleet(instances: int, found: Mapping[str, int]) -> Fleet:
    """Nothing is known of what was wanted: whoever is alive stays, and up to `instances` join them."""
    wanted = sorted(found, key=_index)
    while len(wanted) < instances:
        wanted.append(_free_id(wanted))
    return Fleet(tuple(wanted))


def scale(fleet: Fleet, instances: int, states: States) -> Fleet:
    """The youngest leave first. Raises InvalidArgument."""
    if not 1 <= instances <= MAX_INSTANCES:
        raise InvalidArgument("instances", limit=f"1 to {MAX_INSTANCES}", given=instances)
    wanted = list(fleet.wanted)
    while len(wanted) < instances:
        wanted.append(_free_id([*wanted, *states]))
    while len(wanted) > instances:
        wanted.remove(_first_to_leave(wanted, states))
    return _only_wanted(replace(fleet, wanted=tuple(wanted)))


def drain(fleet: Fleet, slot_id: str) -> Fleet:
    """Raises NotFound for an instance that is not wanted anyway, InvalidArgument for the last one."""
    if slot_id not in fleet.wanted:
        raise NotFound(f"instance {slot_id}: there is none, or it is leaving")
    if len(fleet.wanted) == 1:
        raise InvalidArgument("id", limit="not the last instance (`shoal down` ends the cluster)", given=slot_id)
    return _only_wanted(replace(fleet, wanted=tuple(one for one in fleet.wanted if one != slot_id)))


def restart(fleet: Fleet) -> Fleet:
    """Raises InvalidArgument while one is under way."""
    if fleet.retiring:
        raise InvalidArgument("restart", limit="one at a time", given=fleet.words)
    return replace(fleet, retiring=fleet.wanted)


def advance_restart(fleet: Fleet, states: States) -> Fleet:
    """The next step of a rolling restart, if its time has come."""
    if not fleet.retiring:
        return fleet
    if not fleet.replacement:
        leaving = [one for one in states if one not in fleet.wanted]
        if leaving:  # the last one is still being emptied
            return fleet
        fresh = _free_id([*fleet.wanted, *states])
        return replace(fleet, wanted=(*fleet.wanted, fresh), replacement=fresh)
    match states.get(fleet.replacement):
        case InstanceState.READY:
            oldest, *rest = fleet.retiring
            wanted = tuple(one for one in fleet.wanted if one != oldest)
            return replace(fleet, wanted=wanted, retiring=tuple(rest), replacement="")
        case InstanceState.QUARANTINED:
            wanted = tuple(one for one in fleet.wanted if one != fleet.replacement)
            return Fleet(wanted)
    return fleet


def _only_wanted(fleet: Fleet) -> Fleet:
    retiring = tuple(one for one in fleet.retiring if one in fleet.wanted)
    replacement = fleet.replacement if retiring and fleet.replacement in fleet.wanted else ""
    return replace(fleet, retiring=retiring, replacement=replacement)


def _first_to_leave(wanted: list[str], states: States) -> str:
    """Whoever is not well, then whoever is not ready, then the youngest."""
    ready = InstanceState.READY
    return max(wanted, key=lambda one: (states.get(one) in GONE_WRONG, states.get(one) is not ready, _index(one)))


def _free_id(taken: list[str]) -> str:
    return next(name for n in count() if (name := f"i{n}") not in taken)


def _index(slot_id: str) -> int:
    return int(slot_id[1:])


__all__ = ["Fleet", "advance_restart", "drain", "first_fleet", "restart", "scale"]
