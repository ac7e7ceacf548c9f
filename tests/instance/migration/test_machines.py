"""The two machines of a move, side by side, under events in any order that a shell may see them: each ends, exactly
once, gives back what it took, and never do both run the request.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shoal.instance.migration import source as s
from shoal.instance.migration import target as t
from shoal.instance.migration.words import FOLLOW_S, QUEUED_S, Ending, Patience, Sizes
from shoal.instance.mover import Phase, Sight

PATIENCE = Patience()


def sight(
    phase: Phase = Phase.RUNNING, *, computed: int = 9, sealed: int = 2, output: int = 2, unmovable: str = ""
) -> Sight:
    return Sight("r@1", phase, 0, 8, output, computed, sealed, 3, 100, unmovable=unmovable)


def source(**sizes: int) -> s.Source:
    machine = s.Source(2, patience=PATIENCE, sizes=Sizes(**sizes))
    assert machine.start(0.0) == [s.Look(0)]
    return machine


# -- the source, step by step


def copying(machine: s.Source, missing: tuple[int, ...] = (0, 1)) -> s.Source:
    machine.feed(s.Seen(sight(), 2), 0.0)
    machine.named(2)
    machine.feed(s.Opened(missing), 0.1)
    return machine


def test_a_move_copies_what_is_missing_then_what_sealed_meanwhile_then_parks_and_hands_over():
    m = source()
    assert m.feed(s.Seen(sight(), 5), 0.0) == [s.Open()]
    m.named(5)
    assert m.feed(s.Opened((1, 3, 4)), 0.1) == [s.Send((1, 3))]
    assert m.feed(s.Installed(), 0.2) == [s.Send((4,))]
    assert m.feed(s.Installed(), 0.3) == [s.Look(5)]
    assert m.feed(s.Seen(sight(sealed=6), 1), 0.3) == [s.Send((5,))]
    assert m.feed(s.Installed(), 0.4) == [s.Look(6)]
    assert m.feed(s.Seen(sight(sealed=6), 0), 0.4) == [s.Park(6)]
    assert m.feed(s.InFlight(), 0.4) == [s.Park(6)]
    assert m.feed(s.Parked(sight(Phase.MOVING, sealed=7, computed=29), 1), 0.5) == [s.Send((6,))]
    assert m.feed(s.Installed(), 0.5) == [s.Prepare(7)]
    assert m.feed(s.Prepared(), 0.6) == [s.HandOver(True)]
    assert m.feed(s.Settled(True), 0.7) == [s.Release()]
    assert (m.ending, m.stages) == (Ending.COMMITTED, 2)


def test_a_waiting_request_is_handed_over_without_a_copy():
    m = source()
    assert m.feed(s.Seen(sight(Phase.WAITING, computed=0, sealed=0), 0), 0.0) == [s.Park(0)]
    assert m.feed(s.Parked(sight(Phase.MOVING, computed=0, sealed=0), 0), 0.0) == [s.HandOver(False)]
    assert m.feed(s.Settled(True), 0.0) == [s.Release()]
    assert m.ending is Ending.MOVED_WAITING


def test_one_that_seals_faster_than_it_is_copied_is_left_alone():
    m = copying(source(stages=2, last_blocks=3), (0,))
    m.feed(s.Installed(), 0.2)
    m.feed(s.Seen(sight(sealed=3), 1), 0.2)
    m.feed(s.Installed(), 0.2)
    assert m.feed(s.Seen(sight(sealed=7), 4), 0.2) == []
    assert m.ending is Ending.TOO_MANY_STAGES


def test_the_rest_after_the_last_stage_is_copied_in_the_pause_if_it_is_small():
    m = copying(source(stages=1, last_blocks=3), ())
    assert m.feed(s.Seen(sight(sealed=5), 3), 0.2) == [s.Park(2)]
    assert m.feed(s.Parked(sight(Phase.MOVING, sealed=5), 3), 0.2) == [s.Send((2, 3))]


def follow(first: int, wait_s: float = 0.0) -> s.Follow:
    return s.Follow(first, wait_s, 4)


def following() -> s.Source:
    m = s.Source(2, patience=PATIENCE, sizes=Sizes(stages=1, last_blocks=1, followed_blocks=4), follow=True)
    assert m.start(0.0) == [follow(0)]
    return m


def test_a_planned_move_follows_the_prefill_and_parks_at_the_first_token():
    m = following()
    assert m.feed(s.Seen(sight(Phase.WAITING, computed=0, sealed=0, output=0), 0), 0.0) == [follow(0, QUEUED_S)]
    assert m.feed(s.Seen(sight(output=0), 2), 0.1) == [s.Open()]
    m.named(2)
    assert m.feed(s.Opened((0, 1)), 0.1) == [s.Send((0, 1))]
    assert m.feed(s.Installed(), 0.2) == [follow(2)]
    assert m.feed(s.Seen(sight(output=0), 0), 0.2) == [follow(2, FOLLOW_S)]
    assert m.feed(s.Seen(sight(output=0, sealed=4), 2), 0.2) == [s.Send((2, 3))]
    assert m.feed(s.Installed(), 0.3) == [follow(4)]
    assert m.feed(s.Parked(sight(Phase.MOVING, output=1, sealed=6), 2), 0.3) == [s.Send((4, 5))]
    assert m.feed(s.Installed(), 0.3) == [s.Prepare(6)]


def test_a_prompt_of_one_chunk_waits_parked_for_its_lease():
    m = following()
    assert m.feed(s.Parked(sight(Phase.MOVING, output=1, sealed=3), 3), 0.1) == [s.Open()]
    m.named(3)
    assert m.feed(s.Opened((1, 2)), 0.1) == [s.Send((1, 2))]
    assert m.feed(s.Installed(), 0.2) == [s.Prepare(3)]


def test_what_the_target_has_already_is_not_sent_to_a_lease_that_was_waited_for():
    m = following()
    m.feed(s.Parked(sight(Phase.MOVING, output=1, sealed=3), 3), 0.1)
    m.named(3)
    assert m.feed(s.Opened(()), 0.1) == [s.Prepare(3)]


def test_a_planned_move_that_fails_lets_go_of_what_its_last_look_parks():
    m = following()
    m.feed(s.Seen(sight(output=0), 2), 0.1)
    assert m.feed(s.LineLost(), 0.2) == [s.Unpark()]


def test_much_that_is_unsent_at_the_first_token_is_copied_while_it_runs_on():
    m = following()
    assert m.feed(s.Seen(sight(output=1, sealed=9), 9), 0.1) == [s.Open()]
    m.named(9)
    m.feed(s.Opened((7, 8)), 0.1)
    assert m.feed(s.Installed(), 0.2) == [follow(9)]


def test_a_planned_move_whose_request_does_not_begin_is_no_reason_to_give_up_while_its_engine_answers():
    m = following()
    for second in range(1, 60):
        now_s = float(second)
        m.feed(s.Expired(), now_s)
        seen = s.Seen(sight(Phase.WAITING, computed=0, sealed=0, output=0), 0)
        assert m.feed(seen, now_s) == [follow(0, QUEUED_S)]
    m.feed(s.Expired(), 59.0 + PATIENCE.look_s)
    assert m.ending is Ending.SOURCE_SLOW


def test_a_request_that_was_preempted_meanwhile_goes_on_here():
    m = copying(source(), ())
    assert m.feed(s.Seen(sight(Phase.WAITING, computed=0, sealed=0), 0), 0.2) == []
    assert (m.ending, m.detail) == (Ending.SOURCE_GONE, "preempted")
    late = copying(source(), ())
    late.feed(s.Seen(sight(), 0), 0.2)
    assert late.feed(s.Parked(sight(Phase.MOVING, computed=0, sealed=0), 0), 0.2) == [s.Unpark()]
    assert late.ending is Ending.SOURCE_GONE


def test_what_cannot_move_is_refused_with_its_reason():
    m = source()
    assert m.feed(s.Seen(sight(unmovable="prompt_logprobs"), 2), 0.0) == []
    assert (m.ending, m.detail) == (Ending.REFUSED, "prompt_logprobs")


# -- the target, step by step


def prepared() -> t.Target:
    m = t.Target(patience=PATIENCE)
    assert m.feed(t.OpenCame(3), 0.0) == [t.Lease()]
    assert m.feed(t.Leased((1, 2)), 0.0) == [t.SayOpened((1, 2))]
    assert m.feed(t.BlocksCame((1,)), 0.0) == [t.Install((1,), 2)]
    m.feed(t.Installed(), 0.0)
    assert m.feed(t.BlocksCame((2, 3)), 0.0) == [t.Install((2, 3), 4)]
    assert m.feed(t.Installed(), 0.0) == [t.SayInstalled()]
    assert m.feed(t.PrepareCame(), 0.0) == [t.Hold(4)]
    assert m.feed(t.Held(), 1.0) == [t.SayPrepared()]
    return m


def test_a_prepared_target_waits_for_the_owner_even_if_its_source_is_gone():
    m = prepared()
    assert m.feed(t.StreamEnded(), 2.0) == []
    assert m.feed(t.TakenOver(), 3.0) == [t.Adopt()] and m.adopted


def test_a_prepared_target_that_nobody_asks_for_gives_up_at_its_deadline():
    m = prepared()
    assert m.feed(t.Expired(), 1.0 + PATIENCE.lease_s - 0.1) == []
    assert m.feed(t.Expired(), 1.0 + PATIENCE.lease_s) == [t.Drop()]
    assert m.feed(t.TakenOver(), 9.0) == []


def test_a_prepare_with_blocks_missing_is_declined():
    m = t.Target(patience=PATIENCE)
    m.feed(t.OpenCame(3), 0.0)
    m.feed(t.Leased((1,)), 0.0)
    [drop, decline] = m.feed(t.PrepareCame(), 0.0)
    assert drop == t.Drop() and isinstance(decline, t.Decline)


# -- both, in any order


class Moves(RuleBasedStateMachine):
    """The model of both shells: what they would do is remembered, and what they may be told is offered at random. The
    owner is one number: which side it believes.
    """

    @initialize(waiting=st.booleans(), stages=st.integers(1, 3), follow=st.booleans())
    def begin(self, waiting: bool, stages: int, follow: bool) -> None:
        self.now_s, self.blocks, self.waiting = 0.0, 2, waiting
        sizes = Sizes(stages=stages, last_blocks=2, followed_blocks=3)
        self.source = s.Source(2, patience=PATIENCE, sizes=sizes, follow=follow)
        self.target = t.Target(patience=PATIENCE)
        self.due: list[s.Command] = self.source.start(0.0)
        self.parked = self.released = self.leased = self.runs_there = self.stream = False
        self.owner, self.asked, self.sent = "source", False, 0
        self.stream_over = False

    def to_source(self, event: s.Event) -> None:
        for command in self.source.feed(event, self.now_s):
            match command:
                case s.Unpark():
                    self.parked = False
                case s.Release():
                    self.released, self.parked = True, False
                case _:
                    self.due.append(command)

    def to_target(self, event: t.Event) -> list[t.Command]:
        commands = self.target.feed(event, self.now_s)
        for command in commands:
            match command:
                case t.Lease():
                    self.leased = True
                case t.Drop():
                    self.leased = False
                case t.Adopt():
                    self.leased, self.runs_there = False, True
        return commands

    @precondition(lambda self: self.due)
    @rule(answer=st.sampled_from(["good", "good", "good", "bad"]), sealed=st.integers(0, 2))
    def the_shell_acts(self, answer: str, sealed: int) -> None:
        if self.source.stage is s.Stage.ENDED:
            self.due.clear()
            return
        match self.due.pop(0):
            case s.Look(first):
                self.blocks += sealed
                phase = Phase.WAITING if self.waiting else Phase.RUNNING
                seen = sight(phase, sealed=self.blocks, computed=0 if self.waiting else 4 * self.blocks + 1)
                self.to_source(s.Seen(seen, 0 if self.waiting else self.blocks - first))
            case s.Follow(first, _, park_blocks):
                self.blocks += sealed
                pinned, self.parked = self.blocks - first, not sealed and self.blocks - first <= park_blocks
                phase, output = Phase.MOVING if self.parked else Phase.RUNNING, 0 if sealed == 1 else 2
                seen = sight(phase, sealed=self.blocks, computed=4 * self.blocks + 1, output=output)
                self.to_source(s.Parked(seen, pinned) if self.parked else s.Seen(seen, pinned))
            case s.Open():
                self.source.named(self.blocks)
                self.exchange(t.OpenCame(self.blocks), t.Leased((1,)), answer, s.Opened((1,)))
            case s.Send(positions):
                self.exchange(t.BlocksCame(positions), t.Installed(), answer, s.Installed())
            case s.Park(first):
                self.parked = True
                self.blocks += 0 if self.waiting else sealed
                seen = sight(Phase.MOVING, sealed=self.blocks, computed=0 if self.waiting else 4 * self.blocks + 1)
                self.to_source(s.Parked(seen, 0 if self.waiting else self.blocks - first))
            case s.Prepare():
                self.exchange(t.PrepareCame(), t.Held(), answer, s.Prepared())
            case s.HandOver():
                self.asked = True

    def exchange(self, came: t.Event, done: t.Event, answer: str, receipt: s.Event) -> None:
        """One parcel and its receipt; `bad`: the target's engine says no. A broken stream carries nothing."""
        if self.stream_over:
            self.to_source(s.LineLost("broken"))
            return
        declined = [c for c in self.to_target(came) if isinstance(c, t.Decline)]
        if not declined:
            declined = [
                c for c in self.to_target(done if answer == "good" else t.Failed("no")) if isinstance(c, t.Decline)
            ]
        self.to_source(s.Declined(declined[0].reason) if declined else receipt)

    @precondition(lambda self: self.asked)
    @rule(heard=st.booleans())
    def the_owner_decides(self, heard: bool) -> None:
        """It commits if it can; its words may be lost to either side."""
        self.asked = False
        self.owner = "target"
        if not self.waiting and heard:
            self.to_target(t.TakenOver())
        if self.source.stage is s.Stage.DECIDING and heard:
            self.to_source(s.Settled(True))

    @precondition(lambda self: self.asked)
    @rule()
    def the_owner_refuses(self) -> None:
        self.asked = False
        if self.source.stage is s.Stage.DECIDING:
            self.to_source(s.Settled(False))

    @rule()
    def the_stream_breaks(self) -> None:
        self.stream_over = True
        self.to_target(t.StreamEnded())

    @rule(how=st.sampled_from(["finished", "aborted", "its stream ended"]))
    def the_request_ends(self, how: str) -> None:
        self.to_source(s.Broken(Ending.SOURCE_GONE, how))

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 20.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        if self.now_s >= self.source.deadline_s:
            self.to_source(s.Expired())
        if self.now_s >= self.target.deadline_s:
            self.to_target(t.Expired())

    @invariant()
    def both_do_not_run_it_for_its_owner(self) -> None:
        """The source may run it unheard (its epoch is over), but never is a released one anybody's but the target's."""
        assert not self.released or self.owner == "target"
        assert not self.runs_there or self.owner == "target"

    @invariant()
    def an_ended_side_keeps_nothing(self) -> None:
        if self.source.stage is s.Stage.ENDED:
            assert self.source.ending is not None and not self.parked
            assert self.released == (self.source.ending in (Ending.COMMITTED, Ending.MOVED_WAITING))
        else:
            assert self.source.deadline_s < float("inf")
        if self.target.stage is t.Stage.ENDED:
            assert not self.leased
        elif self.leased:
            assert self.target.deadline_s < float("inf")

    def teardown(self) -> None:
        """Left alone, both end."""
        for _ in range(2):
            self.now_s += 60.0
            self.to_source(s.Expired())
            self.to_target(t.Expired())
        assert self.source.stage is s.Stage.ENDED and not self.parked and not self.leased


TestMoves = Moves.TestCase
TestMoves.settings = settings(max_examples=settings().max_examples, stateful_step_count=30)
