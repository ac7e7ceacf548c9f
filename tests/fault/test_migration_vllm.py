"""The same with real engines: each who takes part in a move is killed or cut off once at each stage."""

import pytest

from tests.tools.trio import LIMIT_S, POINTS, recoveries, vllm_trio

pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.timeout(900)]


@pytest.mark.parametrize("point", POINTS)
async def test_whoever_dies_while_a_real_request_moves_its_tokens_are_those_of_an_undisturbed_run(point, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for victim, seen_s in (await recoveries(vllm_trio(point), point, 1)).items():
        print(f"{point} {victim}: next token after {1e3 * max(seen_s):.0f} ms")
        assert max(seen_s) < 10 * LIMIT_S[victim]
