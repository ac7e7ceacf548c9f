"""Moves between real processes over real sockets, while whoever takes part is killed or cut off at each stage. The
client gets the tokens of an undisturbed run; its pause is measured and printed.
"""

import os

import pytest

from tests.tools.trio import LIMIT_S, POINTS, Trio, recoveries

NIGHTLY = bool(os.environ.get("SHOAL_NIGHTLY"))
RUNS = 20 if NIGHTLY else 1  # at each stage, and one of each victim
SOME_POINTS = ("departure.prepare",)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("point", POINTS if NIGHTLY else SOME_POINTS)
async def test_whoever_dies_at_any_stage_of_a_move_no_token_is_lost_and_no_block_kept(point):
    for victim, seen_s in (await recoveries(Trio(point), point, RUNS)).items():
        worst_s = max(seen_s)
        print(f"{point} {victim}: next token after at most {1e3 * worst_s:.0f} ms ({len(seen_s)} runs)")
        if NIGHTLY:  # on a machine that does nothing else
            assert worst_s < 10 * LIMIT_S[victim], f"{point} {victim}: {worst_s:.2f} s"
