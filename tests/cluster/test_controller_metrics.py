"""What the controller says of its members, at scrape time."""

from types import SimpleNamespace
from typing import Any

from shoal.cluster.controller_metrics import ControllerMetrics
from shoal.cluster.member import InstanceState, Slot


def samples(*slots: Slot) -> dict[tuple[str, str], float]:
    controller: Any = SimpleNamespace(slots={slot.id: slot for slot in slots}, clock=lambda: 100.0)
    found = [s for family in ControllerMetrics(controller, "m").collect() for s in family.samples]
    assert all(s.labels["model_name"] == "m" for s in found)
    return {(s.name, s.labels.get("state") or s.labels["engine"]): s.value for s in found}


def test_every_state_is_counted_and_only_who_should_speak_has_a_heartbeat() -> None:
    seen = samples(
        Slot("i0", state=InstanceState.READY, incarnation=4, heartbeat_s=99.5),
        Slot("i1", state=InstanceState.STARTING, incarnation=1),
        Slot("i2", state=InstanceState.FENCED, incarnation=2, heartbeat_s=97.0),
    )
    counts = {state.value: seen["shoal_controller_instances", state.value] for state in InstanceState}
    assert counts == {**dict.fromkeys(counts, 0), "ready": 1, "starting": 1, "fenced": 1}
    ages = {who: value for (name, who), value in seen.items() if name == "shoal_controller_heartbeat_age_seconds"}
    assert ages == {"i0": 0.5, "i2": 3.0}
    assert seen["shoal_controller_starts_total", "i0"] == 4
