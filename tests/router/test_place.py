"""Each named policy picks what its formula says, worked out by hand; filters decide: place, wait or reject."""

from collections import Counter
from random import Random

import pytest

from shoal.router.contract import InstanceInfo, InstanceLoad, Placement, Rejection, Role, RouteRequest, Term, Wait
from shoal.router.filters import FRESH_S
from shoal.router.place import place
from shoal.router.profile import PROFILES, build_policy
from shoal.router.snapshot import Standing
from shoal.router.terms import EXPLAINED
from shoal.router.view import ClusterView


def info(name: str, **facts: object) -> InstanceInfo:
    return InstanceInfo(
        **{"id": name, "role": Role.MIXED, "block_size": 10, "total_blocks": 100, "max_model_len": 1000}
        | {"max_num_batched_tokens": 256, "max_num_seqs": 8}
        | facts
    )


def view_of(**loads: InstanceLoad) -> ClusterView:
    view = ClusterView()
    for name, load in loads.items():
        view.join(info(name))
        view.observe(name, load, 0.0)
    return view


def idle(*names: str) -> ClusterView:
    return view_of(**{name: InstanceLoad() for name in names})


def request(name: str = "r", tokens: int = 100, **facts: object) -> RouteRequest:
    return RouteRequest(name, tokens, 5, **facts)


def ask(
    view: ClusterView, policy: str = "least_work", asked: RouteRequest | None = None, seed: int = 0, **weights: float
):
    return place(asked or request(), view, build_policy(policy, weights), 0.0, Random(seed))


def run(view: ClusterView, policy: str, count: int, seed: int = 0, start: int = 0) -> list[str]:
    rng, built, chosen = Random(seed), build_policy(policy), []
    for n in range(start, start + count):
        asked = request(f"r{n}")
        decision = place(asked, view, built, 0.0, rng)
        view.book(asked, decision, 0.0)
        chosen.append(decision.instance)
    return chosen


# Policies


def test_least_work_is_tokens_ahead_and_own_times_batch():
    view = view_of(
        a=InstanceLoad(running=3, queued_prefill_tokens=0),  # (0 + 100) * 4 = 400
        b=InstanceLoad(running=0, waiting=1, queued_prefill_tokens=60, uncached_prefill_tokens=39),  # 199 * 2 = 398
        c=InstanceLoad(running=0, uncached_prefill_tokens=301),  # 401 * 1 = 401
    )
    decision = ask(view)
    assert decision.instance == "b"
    assert {name: terms[0].raw for name, terms in decision.terms.items()} == {"b": 398, "a": 400, "c": 401}


def test_least_work_sees_bookings():
    view = idle("a", "b")
    view.book(request("r0"), Placement("a"), 0.0)
    assert [ask(view, seed=seed).instance for seed in range(20)] == ["b"] * 20


def test_least_work_gives_no_credit_for_a_cache_but_reports_it():
    view = view_of(a=InstanceLoad(), b=InstanceLoad(running=1))
    view.block_changes("a", "stored", [b"1"])
    view.block_changes("b", "stored", [b"1", b"2"])
    decision = ask(view, asked=request(block_hashes=(b"1", b"2")))
    terms = {"a": (Term("least_work", 100, 1),), "b": (Term("least_work", 200, 1),)}
    assert decision == Placement("a", 10, terms, "least_work")


def test_prefix_least_work_credits_each_instance_with_what_it_holds():
    view = view_of(
        a=InstanceLoad(running=1),  # holds 60 of 100: (0 + 40) * 2 = 80
        b=InstanceLoad(),  # holds 10: (0 + 90) * 1 = 90
        c=InstanceLoad(running=8),  # holds 90: (0 + 10) * 9 = 90
    )
    chain = tuple(bytes([n]) for n in range(10))
    for name, blocks in (("a", 6), ("b", 1), ("c", 10)):
        view.block_changes(name, "stored", chain[:blocks])
    decision = ask(view, "prefix_least_work", request(block_hashes=chain))
    assert (decision.instance, decision.cached_tokens) == ("a", 60)
    assert {name: terms[0].raw for name, terms in decision.terms.items()} == {"a": 80, "b": 90, "c": 90}


def test_prefix_affinity_never_overrules_load_for_long():
    view, chain = idle("a", "b"), tuple(bytes([n]) for n in range(10))
    view.block_changes("a", "stored", chain)
    rng, policy, chosen = Random(0), build_policy("prefix_least_work"), []
    for n in range(30):
        asked = request(f"r{n}", block_hashes=chain)
        decision = place(asked, view, policy, 0.0, rng)
        view.book(asked, decision, 0.0)
        chosen.append(decision.instance)
    # The next one costs (10 n + 10) * (n + 1) on a with n booked there: 10, 40, 90, 160; and 100 on b.
    assert chosen[:4] == ["a", "a", "a", "b"]
    assert chosen.count("b") >= 5


def test_prefix_least_work_without_any_hit_is_least_work():
    view = view_of(a=InstanceLoad(running=2), b=InstanceLoad(queued_prefill_tokens=50))
    plain, prefix = ask(view), ask(view, "prefix_least_work")
    assert [t[0].raw for t in plain.terms.values()] == [t[0].raw for t in prefix.terms.values()] == [150, 300]


def test_power_of_two_takes_the_less_busy_of_the_two_drawn_and_so_never_the_busiest():
    view = view_of(a=InstanceLoad(running=1), b=InstanceLoad(waiting=2), c=InstanceLoad(running=3))
    chosen = Counter(ask(view, "power_of_two", seed=seed).instance for seed in range(300))
    assert chosen["c"] == 0
    assert chosen["a"] > chosen["b"] > 0  # a wins two of the three pairs, b one


def test_join_shortest_queue_takes_the_fewest_requests_of_all():
    view = view_of(a=InstanceLoad(running=2), b=InstanceLoad(waiting=1, queued_prefill_tokens=900), c=InstanceLoad(3))
    assert {ask(view, "join_shortest_queue", seed=seed).instance for seed in range(20)} == {"b"}


def test_random_is_blind_to_load():
    view = view_of(a=InstanceLoad(running=9), b=InstanceLoad())
    chosen = Counter(ask(view, "random", seed=seed).instance for seed in range(200))
    assert 70 < chosen["a"] < 130


def test_lmetric_multiplies_uncached_prefill_by_the_batch():
    view = view_of(a=InstanceLoad(running=3, uncached_prefill_tokens=5), b=InstanceLoad(queued_prefill_tokens=200))
    view.block_changes("a", "stored", [b"1", b"2"])
    decision = ask(view, "lmetric", request(block_hashes=(b"1", b"2")))
    assert {name: terms[0].raw for name, terms in decision.terms.items()} == {"b": 300, "a": 340}  # (5 + 80) * 4


def test_power_of_two_with_one_instance_takes_it():
    assert ask(idle("a"), "power_of_two").instance == "a"


def test_round_robin_goes_round():
    chosen = run(idle("a", "b", "c"), "round_robin", 9)
    assert sorted(chosen[:3]) == ["a", "b", "c"]
    assert chosen[:3] == chosen[3:6] == chosen[6:]


def test_round_robin_starts_anywhere():
    assert {run(idle("a", "b", "c"), "round_robin", 1, seed)[0] for seed in range(30)} == {"a", "b", "c"}


def test_round_robin_stays_fair_when_members_come_go_and_pause():
    view = idle("a", "b", "c")
    run(view, "round_robin", 7)
    view.join(info("new"))
    assert sorted(run(view, "round_robin", 4, start=7)) == ["a", "b", "c", "new"]  # one turn each, no burst to catch up
    view.leave("b")
    view.set_state("c", Standing.FENCED)
    assert Counter(run(view, "round_robin", 6, start=11)) == {"a": 3, "new": 3}
    view.set_state("c", Standing.READY)
    assert Counter(run(view, "round_robin", 9, start=17)) == {"a": 3, "new": 3, "c": 3}


@pytest.mark.parametrize("policy", PROFILES)
def test_ties_are_broken_at_random_by_the_given_source_only(policy):
    def first(seed: int) -> str:
        return ask(idle("a", "b", "c", "d"), policy, seed=seed).instance

    assert {first(seed) for seed in range(60)} == {"a", "b", "c", "d"}
    assert all(first(seed) == first(seed) for seed in range(10))


def test_weights_add_further_scorers():
    view = view_of(a=InstanceLoad(free_blocks=25), b=InstanceLoad(free_blocks=75, running=1))
    assert ask(view).instance == "a"  # 100 against 200
    decision = ask(view, kv_use=400.0)  # 100 + 300 against 200 + 100
    assert decision.instance == "b"
    assert decision.terms["a"] == (Term("least_work", 100, 1), Term("kv_use", 0.75, 400))


def test_weight_zero_takes_a_scorer_out():
    view = view_of(a=InstanceLoad(running=9), b=InstanceLoad())
    chosen = {ask(view, "least_work", seed=seed, least_work=0.0).instance for seed in range(30)}
    assert chosen == {"a", "b"}


def test_each_scorer_by_hand():
    view = ClusterView()
    view.join(info("a"))
    view.block_changes("a", "stored", [b"1", b"2"])
    load = InstanceLoad(2, 1, 30, 40, context_tokens=500, free_blocks=10, step_ms=7.5)
    view.observe("a", load, 0.0)
    weights = {"turn": 1.0, "requests": 1.0, "least_work": 1.0, "prefix_least_work": 1.0, "miss": 1.0}
    weights |= {"kv_use": 1.0, "context_tokens": 1.0, "step_ms": 1.0}
    decision = ask(view, asked=request(block_hashes=(b"1", b"2")), **weights)
    assert {t.scorer: t.raw for t in decision.terms["a"]} == {
        "turn": 0,
        "requests": 3,
        "least_work": (70 + 100) * 4,
        "prefix_least_work": (70 + 80) * 4,
        "miss": 0.8,
        "kv_use": 0.9,
        "context_tokens": 500,
        "step_ms": 7.5,
    }


def test_terms_show_the_chosen_first_and_are_bounded():
    names = [f"i{n}" for n in range(3 * EXPLAINED)]
    view = view_of(**{name: InstanceLoad(running=n) for n, name in enumerate(names)})
    assert list(ask(view).terms) == names[:EXPLAINED]
    shown = list(ask(view, "power_of_two", seed=3).terms)
    assert len(shown) == EXPLAINED and shown[0] == ask(view, "power_of_two", seed=3).instance


# Filters


def test_empty_cluster_waits():
    assert ask(ClusterView()) == Wait("no instance has joined")


@pytest.mark.parametrize("standing", [Standing.FENCED, Standing.DRAINING])
def test_nobody_ready_waits(standing):
    view = idle("a")
    view.set_state("a", standing)
    assert isinstance(ask(view), Wait)


def test_only_ready_instances_are_chosen():
    view = idle("a", "b", "c")
    view.set_state("a", Standing.FENCED)
    view.observe("b", InstanceLoad(draining=True), 0.0)
    assert {ask(view, seed=seed).instance for seed in range(20)} == {"c"}


def test_excluded_instances_are_avoided_and_wait_if_all_are():
    view = idle("a", "b")
    assert {ask(view, asked=request(excluded=frozenset("a")), seed=s).instance for s in range(20)} == {"b"}
    assert isinstance(ask(view, asked=request(excluded=frozenset("ab"))), Wait)


def test_a_long_prompt_goes_to_a_prefill_instance_and_a_short_or_cached_one_to_where_it_decodes():
    view = ClusterView()
    view.split_from_tokens = 50
    view.join(info("p", role=Role.PREFILL))
    view.join(info("d", role=Role.DECODE))
    assert ask(view, asked=request(tokens=50)).instance == "p"
    assert ask(view, asked=request(tokens=49)).instance == "d"


def test_roles_are_a_preference_whoever_is_left_serves_anything():
    view = ClusterView()
    view.join(info("d", role=Role.DECODE))
    assert ask(view, asked=request(tokens=900)).instance == "d"
    view.join(info("p", role=Role.PREFILL))
    view.set_state("p", Standing.FENCED)
    assert ask(view, asked=request(tokens=900)).instance == "d"


def test_a_role_may_change_and_nothing_else_does():
    view = idle("a", "b")
    view.book(request(), Placement("a"), 0.0)
    view.set_role("a", Role.PREFILL)
    view.check()
    assert [one.info.role for one in view.candidates(0.0)] == [Role.PREFILL, Role.MIXED]
    assert view.candidates(0.0)[0].load.waiting == 1


def test_adapter_that_is_loaded_nowhere_is_rejected():
    decision = ask(idle("a"), asked=request(lora="poet"))
    assert isinstance(decision, Rejection)
    assert "poet" in decision.reason


def test_adapter_goes_where_it_is_loaded_and_waits_while_that_one_is_fenced():
    view = idle("a")
    view.join(info("b", loras=frozenset({"poet"})))
    asked = request(lora="poet")
    assert {ask(view, asked=asked, seed=seed).instance for seed in range(20)} == {"b"}
    view.set_state("b", Standing.FENCED)
    assert isinstance(ask(view, asked=asked), Wait)


def test_context_that_fits_no_instance_is_rejected_with_limit_and_given():
    view = idle("a")
    assert isinstance(ask(view, asked=request(tokens=999)), Placement)
    assert ask(view, asked=request(tokens=1000)) == Rejection("context_tokens: must be less than 1000, given 1000")


def test_context_that_fits_one_instance_goes_there():
    view = idle("a")
    view.join(info("long", max_model_len=5000))
    assert {ask(view, asked=request(tokens=1000), seed=seed).instance for seed in range(20)} == {"long"}


def test_silent_instance_is_avoided_while_others_report():
    view, late_s = idle("silent", "a"), FRESH_S + 0.01
    view.observe("a", InstanceLoad(running=5), late_s)
    assert place(request(), view, build_policy("least_work"), late_s, Random(0)).instance == "a"
    view.set_state("a", Standing.FENCED)
    assert place(request(), view, build_policy("least_work"), late_s, Random(0)).instance == "silent"


def test_instance_that_never_reported_is_new_and_not_stale():
    view = ClusterView()
    view.join(info("new"))
    view.join(info("a"))
    view.observe("a", InstanceLoad(running=1), 100.0)
    assert place(request(), view, build_policy("least_work"), 100.0, Random(0)).instance == "new"
