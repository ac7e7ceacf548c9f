"""From new weights to nearly all requests and back, event by event."""

import pytest

from shoal.router import rollout as r
from shoal.router.rollout import Arm, Goodput, IllegalMove, Rollout, Stage


def at_canary(share: float = 0.5) -> Rollout:
    return r.canary(r.publish(Rollout(), "v1"), share)


def feed(rollout: Rollout, arm: Arm, *, met: int, missed: int) -> Rollout:
    for one in [True] * met + [False] * missed:
        rollout = r.served(rollout, arm, one)
    return rollout


def test_new_weights_decide_nothing_before_somebody_says_so():
    shadow = r.publish(Rollout(), "v1")
    assert (shadow.stage, shadow.version) == (Stage.SHADOW, "v1")
    assert {shadow.arm(f"r{n}") for n in range(100)} == {Arm.CONTROL}


def test_a_share_of_the_requests_is_decided_by_weights_the_same_ones_everywhere():
    canary = at_canary(0.25)
    arms = [canary.arm(f"r{n}") for n in range(4000)]
    assert arms == [at_canary(0.25).arm(f"r{n}") for n in range(4000)]
    assert 900 < arms.count(Arm.CANARY) < 1100


def test_raising_the_share_keeps_those_who_were_in_it_and_the_counts():
    small = feed(at_canary(0.1), Arm.CANARY, met=5, missed=0)
    large = r.canary(small, 0.5)
    assert large.canary == Goodput(5, 5)
    assert all(large.arm(f"r{n}") is Arm.CANARY for n in range(500) if small.arm(f"r{n}") is Arm.CANARY)


def test_somebody_always_stays_with_the_configured_policy():
    assert r.canary(at_canary(), 1.0).share == r.MOST_SHARE < 1


def test_worse_goodput_goes_back_by_itself():
    canary = feed(at_canary(), Arm.CONTROL, met=95, missed=5)
    canary = feed(canary, Arm.CANARY, met=20, missed=29)
    assert canary.stage is Stage.CANARY, "49 are too few to judge"
    back = feed(canary, Arm.CANARY, met=0, missed=1)  # 40 % of 50 against 95 % of 100
    assert back.stage is Stage.BACK and "55.0%" in back.why
    assert back.arm("r1") is Arm.CONTROL


@pytest.mark.parametrize(("met", "missed"), [(95, 5), (92, 8), (100, 0)])
def test_equal_or_better_goodput_stays(met, missed):
    """92 % of 100 against 95 %: one standard error of the difference, 3.5 %."""
    canary = feed(at_canary(), Arm.CONTROL, met=95, missed=5)
    assert feed(canary, Arm.CANARY, met=met, missed=missed).stage is Stage.CANARY


def test_a_loss_counts_when_it_is_three_standard_errors():
    # 0.9 against 0.6 of 100 each: errors 0.0009 + 0.0024, root 0.0574, thrice 0.172
    lost = Rollout(Stage.CANARY, "v", 0.5, Goodput(100, 90), Goodput(100, 60))
    assert r.loss(lost) == pytest.approx(0.3)
    assert r.loss(Rollout(Stage.CANARY, "v", 0.5, Goodput(100, 90), Goodput(100, 75))) == 0.0


def test_old_counts_fade():
    assert Goodput(r.KEPT, r.KEPT).add(False) == Goodput(r.KEPT / 2 + 1, r.KEPT / 2)


def test_what_was_rolled_back_decides_again_only_after_it_is_published_anew():
    back = r.roll_back(at_canary(), "by hand")
    assert (back.stage, back.share, back.why) == (Stage.BACK, 0.0, "by hand")
    with pytest.raises(IllegalMove, match="back cannot become canary: by hand"):
        r.canary(back, 0.1)
    again = r.canary(r.publish(back, "v2"), 0.1)
    assert (again.stage, again.canary) == (Stage.CANARY, Goodput())


@pytest.mark.parametrize("rollout", [Rollout(), r.publish(Rollout(), "v1")])
def test_what_decides_nothing_needs_no_way_back(rollout):
    assert r.roll_back(rollout, "why") == rollout
    assert r.served(rollout, Arm.CONTROL, True) == rollout


def test_withdrawn_is_as_if_there_had_been_none():
    off = r.withdraw(at_canary())
    assert (off.stage, off.version, off.canary) == (Stage.OFF, "", Goodput())
    with pytest.raises(IllegalMove):
        r.canary(off, 0.5)
