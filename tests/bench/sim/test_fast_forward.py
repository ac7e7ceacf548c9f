"""Many steps at once are those steps: the same decisions, and times equal within a microsecond."""

import os
from random import Random

import pytest

from shoal.bench.sim.request import Listed, SimRequest
from shoal.bench.sim.simulation import Simulation
from shoal.instance.step_model import StepModel
from shoal.instance.step_time import HingeStepTime, LinearStepTime
from shoal.proto.config import AdmissionConfig
from shoal.router.contract import InstanceInfo, Role
from shoal.router.profile import PROFILES, build_policy

WORKLOADS = 1000 if os.environ.get("SHOAL_NIGHTLY") else 40


def requests(rng: Random, block_size: int, max_tokens: int) -> list[SimRequest]:
    """Bursts and gaps, prompts that share beginnings, some of them those of whole conversations."""
    at_s, listed = 0.0, []
    rate_rps = rng.choice((5, 40, 200))
    for number in range(rng.randint(5, 60)):
        at_s += rng.expovariate(rate_rps)
        prompt = rng.randint(1, max_tokens // 2)
        output = rng.choice((1, 2, rng.randint(1, max_tokens // 2)))
        family = rng.randint(0, 3)
        shared = rng.randint(0, (prompt + output) // block_size)
        names = [b"%d/%d" % (family, block) for block in range(shared)]
        if rng.random() < 0.5:  # its own blocks have names too, so a preempted one finds them again
            names += [b"%d:%d" % (number, block) for block in range(shared, (prompt + output) // block_size)]
        priority = rng.choice((0, 0, 0, 1))
        listed.append(SimRequest(f"r{number}", at_s, prompt, output, max_tokens, tuple(names), priority=priority))
    return listed


def simulate(seed: int, *, fast: bool) -> Simulation:
    rng = Random(seed)
    block_size = rng.choice((1, 4, 16, 64))
    max_tokens = block_size * rng.randint(4, 12) if block_size > 1 else 200
    coefficients = [rng.uniform(1, 10), rng.uniform(0, 0.1), rng.uniform(0, 30), rng.uniform(0, 0.5), rng.uniform(0, 2)]
    step_time = LinearStepTime(*coefficients) if seed % 2 else HingeStepTime(*coefficients, hinge_tokens=8)
    simulation = Simulation(
        Listed(requests(rng, block_size, max_tokens)),
        policy=build_policy(rng.choice(sorted(PROFILES)), rng.choice(({}, {"context_tokens": 0.1}, {"kv_use": 1.0}))),
        frontends=rng.choice((1, 1, 3)),
        admission=AdmissionConfig(max_requests=rng.choice((4, 1000)), default_deadline_s=rng.choice((0.2, 600.0))),
        block_size=block_size,
        hop_s=rng.choice((0.0, 0.0007)),
        report_delay_s=rng.choice((0.0, 0.05)),
        seed=seed,
        fast=fast,
    )
    blocks = -(-max_tokens // block_size) + rng.choice((0, 2, 100))
    for number in range(rng.randint(1, 4)):
        model = StepModel(
            block_size=block_size,
            total_blocks=blocks,
            max_num_batched_tokens=rng.choice((2, 16, 256)),
            max_num_seqs=rng.choice((2, 8, 64)),
            max_model_len=max_tokens,
        )
        info = InstanceInfo(
            f"i{number}", Role.MIXED, block_size, blocks, max_tokens, model.max_num_batched_tokens, model.max_num_seqs
        )
        simulation.join(info, model, step_time)
    simulation.run()
    return simulation


def ends(simulation: Simulation) -> dict[str, tuple[float, ...]]:
    columns = [simulation.results.column(name) for name in ("first_s", "last_s", "cached_tokens", "preemptions")]
    return dict(zip(simulation.results.ids, zip(*columns, strict=True), strict=True))


def test_fast_forward_decides_and_times_as_step_by_step():
    skipped = preempted = 0
    for seed in range(WORKLOADS):
        fast, slow = simulate(seed, fast=True), simulate(seed, fast=False)
        assert fast.decision_hash == slow.decision_hash, seed
        assert fast.results.ends == slow.results.ends, seed
        wanted = ends(slow)
        assert ends(fast) == {request: pytest.approx(end, abs=1e-6, rel=0) for request, end in wanted.items()}, seed
        for a, b in zip(fast.instances.values(), slow.instances.values(), strict=True):
            if not a.requests and not b.requests:  # else the run ended while it computed what nobody waits for any more
                assert (a.steps, a.preemptions) == (b.steps, b.preemptions), seed
            a.model.check()
        for frontend in fast.frontends:
            frontend.view.check()
            frontend.admission.check()
        skipped += slow.events.happened - fast.events.happened
        preempted += sum(instance.preemptions for instance in fast.instances.values())
    assert skipped > 0 and preempted > 0, "nothing was put to the test"


def test_a_run_repeats_itself_event_for_event():
    first, again = simulate(7, fast=True), simulate(7, fast=True)
    assert first.decisions > 0
    assert (first.decision_hash, ends(first)) == (again.decision_hash, ends(again))
    assert first.events.happened == again.events.happened
