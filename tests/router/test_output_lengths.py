"""From recent lengths to what the running have to go."""

import numpy as np
import pytest

from shoal.router.foresight import Foresight
from shoal.router.output_lengths import ENOUGH, WINDOW, OutputLengths


def window(*tokens: int) -> OutputLengths:
    lengths = OutputLengths()
    for length in tokens:
        lengths.ended(length)
    return lengths


def test_too_few_lengths_tell_nothing():
    before = Foresight()
    assert window(*[5] * (ENOUGH - 1)).foresee(before) is before
    assert window(*[0] * ENOUGH).foresee(before) is before


def test_equal_lengths_leave_the_running_evenly_spread():
    foresight = window(*[80] * ENOUGH).foresee(Foresight())
    # Of requests of 80 tokens, met at a random moment, a share q has at least 80 (1 - q) to go.
    assert foresight.shares.tolist() == [0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0]
    assert foresight.remaining_tokens == pytest.approx([70, 60, 50, 40, 30, 20, 10, 0])
    assert foresight.new_tokens == 80


def test_long_ones_are_most_of_those_that_run():
    foresight = window(*[10, 1000] * ENOUGH).foresee(Foresight())
    # Half of the requests are long, but 1000 of 1010 running are; those with over 10 to go: 990 of 1010.
    to_go = dict(zip(foresight.shares.tolist(), foresight.remaining_tokens.tolist(), strict=True))
    assert to_go[0.5] == pytest.approx(1000 - 505)
    assert to_go[0.875] == pytest.approx(1000 - 0.875 * 1010)
    assert foresight.new_tokens == 505


def test_old_lengths_are_forgotten():
    assert len(window(*[1] * (WINDOW + 5))) == WINDOW
    foresight = window(*[1] * WINDOW, *[80] * WINDOW).foresee(Foresight())
    assert foresight.new_tokens == 80
    assert (np.diff(foresight.remaining_tokens) <= 0).all()
