"""What the machine of one slot promises: who gets work, who is killed, who is started again, and when nobody is."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.cluster import membership as m
from shoal.cluster.member_states import move
from shoal.cluster.membership import InstanceState as S

RULES = m.Rules()


@dataclass
class Story:
    """Feeds events at given times and remembers what was commanded."""

    slot: m.Slot = field(default_factory=lambda: m.Slot("i0"))
    now_s: float = 100.0
    commands: list[m.Command] = field(default_factory=list)

    def feed(self, *events: m.Event, after_s: float = 0.0) -> tuple[m.Command, ...]:
        out: tuple[m.Command, ...] = ()
        self.now_s += after_s
        for event in events:
            self.slot, commands = m.advance(self.slot, event, self.now_s, RULES)
            out += commands
        self.commands += out
        return tuple(c for c in out if not isinstance(c, m.Publish))

    def ready(self) -> Story:
        if self.slot.state is S.STOPPED:
            self.feed(m.Begin())
        n = self.slot.incarnation
        self.feed(m.Started(n, "127.0.0.1:1", 7), m.Heartbeat(n, 0, False, 0.01))
        assert self.slot.state is S.READY
        return self

    def beat(self, step: int, *, stepping: bool = True, after_s: float = 0.25, predicted_s: float = 0.01) -> None:
        self.feed(m.Heartbeat(self.slot.incarnation, step, stepping, predicted_s), m.Tick(), after_s=after_s)


def test_a_wanted_slot_starts_and_is_ready_at_its_first_heartbeat():
    s = Story()
    assert s.feed(m.Begin()) == (m.StartInstance(1),)
    s.feed(m.Started(1, "127.0.0.1:9", 42))
    assert s.slot.state is S.STARTING
    s.feed(m.Heartbeat(1, 0, False, 0.0))
    assert (s.slot.state, s.slot.address, s.slot.pid) == (S.READY, "127.0.0.1:9", 42)


def test_import_and_warm_up_may_be_silent_up_to_the_start_timeout():
    s = Story()
    s.feed(m.Begin())
    assert s.feed(m.Tick(), after_s=RULES.start_timeout_s) == ()
    assert s.feed(m.Tick(), after_s=1.0) == (m.KillInstance(1, "did not start in 600 s"),)


def test_silence_fences_and_a_heartbeat_brings_it_back():
    s = Story().ready()
    assert s.feed(m.Tick(), after_s=1.4) == () and s.slot.state is S.READY
    s.feed(m.Tick(), after_s=0.2)
    assert s.slot.state is S.FENCED
    s.beat(1, after_s=10.0)
    assert s.slot.state is S.READY and s.slot.incarnation == 1


def test_a_broken_stream_fences_at_once_and_thirty_silent_seconds_kill():
    s = Story().ready()
    s.feed(m.HeartbeatLost(1, "stream reset"))
    assert s.slot.state is S.FENCED
    assert s.feed(m.Tick(), after_s=29.9) == ()
    assert s.feed(m.Tick(), after_s=0.2) == (m.KillInstance(1, "no heartbeat for 30 s"),)
    assert s.feed(m.Died(1, "killed")) == (m.StartInstance(2),)


def test_heartbeats_without_progress_in_a_step_are_a_hang_after_five_seconds():
    s = Story().ready()
    for _ in range(20):
        s.beat(5)
    assert s.slot.state is S.READY
    for _ in range(2):
        s.beat(5)
    assert s.slot.state is S.HUNG and m.KillInstance(1, "step 6 did not end in 5.0 s") in s.commands


def test_a_slow_engine_gets_ten_times_its_predicted_step():
    s = Story().ready()
    for _ in range(38):
        s.beat(5, predicted_s=1.0)
    assert s.slot.state is S.READY
    for _ in range(4):
        s.beat(5, predicted_s=1.0)
    assert s.slot.state is S.HUNG


def test_an_idle_engine_never_hangs_and_the_first_step_after_idling_has_its_full_time():
    s = Story().ready()
    for _ in range(100):
        s.beat(5, stepping=False)
    s.beat(5, stepping=True)
    assert s.slot.state is S.READY


def test_the_first_restart_is_at_once_the_second_waits_and_the_third_death_quarantines():
    s = Story().ready()
    assert s.feed(m.Died(1, "killed by signal 9")) == (m.StartInstance(2),)
    s.ready()
    assert s.feed(m.Died(2, "killed by signal 9"), after_s=5.0) == ()
    assert s.slot.state is S.DEAD
    assert s.feed(m.Tick(), after_s=0.9) == ()
    assert s.feed(m.Tick(), after_s=0.2) == (m.StartInstance(3),)
    s.ready()
    assert s.feed(m.Died(3, "out of memory"), after_s=5.0) == ()
    assert s.slot.state is S.QUARANTINED and "out of memory" in s.slot.note
    assert s.feed(m.Tick(), after_s=3600.0) == ()


def test_deaths_far_apart_do_not_quarantine_and_a_long_good_time_resets_the_back_off():
    s = Story().ready()
    for n in range(1, 6):
        s.beat(1, stepping=False, after_s=RULES.stable_s + 1)
        s.beat(1, stepping=False)
        s.now_s += RULES.stable_s
        s.feed(m.Died(n, "x"))
        assert s.slot.state in (S.STARTING, S.DEAD)
        s.feed(m.Tick(), after_s=61.0)
        s.ready()
    assert s.slot.incarnation == 6


def test_a_person_clears_a_quarantine():
    s = Story().ready()
    for n in (1, 2, 3):
        s.feed(m.Died(n, "x"))
        s.feed(m.Tick(), after_s=2.0)
    assert s.slot.state is S.QUARANTINED
    assert s.feed(m.Begin()) == (m.StartInstance(4),)
    assert s.feed(m.StartFailed(4, "no such model")) == (m.StartInstance(5),)


def test_a_failed_start_is_a_death_with_its_own_words():
    s = Story()
    s.feed(m.Begin())
    s.feed(m.StartFailed(1, "model: no such folder"))
    assert (s.slot.deaths, s.slot.note) == (1, "restarting after: model: no such folder")


def test_a_condemned_instance_says_why_it_was_killed_and_is_killed_again_until_it_is_gone():
    s = Story().ready()
    s.feed(m.HeartbeatLost(1, "cut"))
    s.feed(m.Tick(), after_s=31.0)
    assert s.feed(m.Tick(), after_s=5.1) == (m.KillInstance(1, "no heartbeat for 30 s"),)
    s.feed(m.Died(1, "killed by signal 9"))
    assert s.slot.note == "restarting after: no heartbeat for 30 s"


def test_words_of_an_earlier_incarnation_change_nothing():
    s = Story().ready()
    s.feed(m.Died(1, "x"))
    before = s.slot
    for late in (m.Heartbeat(1, 9, True, 0.1), m.Died(1, "again"), m.Started(1, "a", 3), m.HeartbeatLost(1, "x")):
        assert s.feed(late) == () and s.slot == before


def test_leaving_is_orderly_and_final():
    s = Story().ready()
    assert s.feed(m.Leave()) == (m.StopInstance(1),)
    assert s.feed(m.Tick(), after_s=29.0) == ()
    assert s.feed(m.Tick(), after_s=2.0) == (m.KillInstance(1, "asked to leave"),)
    assert s.feed(m.Died(1, "gone")) == () and s.slot.state is S.STOPPED


def test_a_new_controller_takes_a_living_instance_over_without_a_restart():
    s = Story()
    assert s.feed(m.Found(4, "127.0.0.1:5", 11)) == () and s.slot.state is S.READY
    s.beat(3)
    assert (s.slot.state, s.slot.incarnation) == (S.READY, 4)


def test_watchers_hear_of_each_visible_change_and_of_nothing_else():
    s = Story().ready()
    s.commands.clear()
    for n in range(5):
        s.beat(n)
    assert s.commands == []
    s.feed(m.Tick(), after_s=2.0)
    assert s.commands == [m.Publish()]


def test_a_move_that_the_table_forbids_is_an_error_that_tells_the_story():
    slot = Story().ready().slot
    with pytest.raises(m.IllegalMove, match="ready may not become starting; its story: starting > ready"):
        move(slot, S.STARTING, 0.0, "")


_numbers = st.integers(0, 4)
_events = st.one_of(
    st.just(m.Tick()),
    st.just(m.Begin()),
    st.just(m.Leave()),
    st.just(m.Drain()),
    st.builds(m.Found, _numbers, st.just("a:1"), st.just(5)),
    st.builds(m.Started, _numbers, st.just("a:1"), st.just(5)),
    st.builds(m.StartFailed, _numbers, st.just("bad")),
    st.builds(m.Heartbeat, _numbers, _numbers, st.booleans(), st.floats(0, 2)),
    st.builds(m.HeartbeatLost, _numbers, st.just("cut")),
    st.builds(m.Died, _numbers, st.just("dead")),
    st.builds(m.Progress, _numbers, st.just("loading")),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(_events, st.sampled_from([0.0, 0.3, 2.0, 31.0, 700.0])), max_size=60))
def test_whatever_happens_one_incarnation_at_a_time_has_a_process(history):
    slot, now_s, alive = m.Slot("i0"), 0.0, None
    for event, gap_s in history:
        now_s += gap_s
        before = slot
        slot, commands = m.advance(slot, event, now_s, RULES)
        if isinstance(event, m.Found) and before.state is S.STOPPED:
            alive = event.incarnation
        if isinstance(event, m.Died | m.StartFailed) and event.incarnation == alive:
            alive = None
        for command in commands:
            match command:
                case m.StartInstance(incarnation):
                    assert alive is None, "two processes in one slot"
                    assert incarnation == before.incarnation + 1 == slot.incarnation
                    alive = incarnation
                case m.KillInstance(incarnation) | m.StopInstance(incarnation):
                    assert incarnation == alive, "killed somebody else"
        assert (slot.state in m.WITH_PROCESS) == (alive is not None)
        assert (m._visible(slot) != m._visible(before)) == (m.Publish() in commands)
        assert slot.state in m.WITH_PROCESS or not slot.address
        assert len(slot.deaths_s) <= RULES.quarantine_deaths and len(slot.story) <= 16


def test_a_draining_instance_serves_until_it_is_empty_and_only_then_stops():
    s = Story().ready()
    assert s.feed(m.Drain()) == ()
    assert s.slot.state is S.DRAINING and s.slot.address
    assert s.feed(m.Emptied(1)) == (m.StopInstance(1),)
    assert s.feed(m.Emptied(1)) == () == s.feed(m.Drain())
    s.feed(m.Died(1, "stopped"))
    assert s.slot.state is S.STOPPED


def test_a_drain_that_does_not_end_in_time_stops_the_instance_all_the_same():
    s = Story().ready()
    s.feed(m.Drain())
    assert s.feed(m.Tick(), after_s=59.0) == () == s.feed(m.Drain())
    assert s.feed(m.Tick(), after_s=2.0) == (m.StopInstance(1),)
    assert "not empty" in s.slot.note


def test_an_instance_that_dies_while_it_drains_is_not_started_again():
    s = Story().ready()
    s.feed(m.Drain())
    s.feed(m.Died(1, "gone"))
    assert (s.slot.state, s.slot.deaths) == (S.STOPPED, 0)


def test_what_holds_no_requests_need_not_drain():
    s = Story()
    s.feed(m.Begin())
    assert s.feed(m.Drain()) == (m.StopInstance(1),)
