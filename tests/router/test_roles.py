"""Who decodes, worked out by hand. A lone decode step takes 10 ms, the goal is 30 ms per token; hosts have 100 blocks
of 10 tokens."""

from shoal.proto.config import DisaggregationConfig
from shoal.router.contract import InstanceInfo, InstanceLoad, Role, RouteRequest
from shoal.router.fleet import Host, Job
from shoal.router.roles import Pairs, RoleChange, RoleState, change_role, decodes_wanted
from shoal.router.view import ClusterView

RULES = DisaggregationConfig(tpot_steps=3.0, patience_s=1.0, cooldown_s=5.0)
DECODING = Job("d", blocks=1, prompt_tokens=5, output_tokens=5, computed_tokens=9)


def host(name: str, role: Role, step_s: float = 0.010, free: int = 100, jobs: tuple[Job, ...] = (DECODING,)) -> Host:
    return Host(name, 10, 100, free, jobs, step_s=step_s, role=role)


def wanted(*decoders: Host, hosts: int = 4) -> int:
    return decodes_wanted(decoders, hosts, 0.010, 0.030)


def test_decodes_are_packed_up_to_the_goal():
    """Two at 17 ms use (17 - 10) / (30 - 10) = 0.35 of what they may: one is enough. At 25 ms, 2 x 0.75 are two."""
    assert wanted(host("a", Role.DECODE, 0.017), host("b", Role.DECODE, 0.017)) == 1
    assert wanted(host("a", Role.DECODE, 0.025), host("b", Role.DECODE, 0.025)) == 2
    assert wanted(host("a", Role.DECODE, 0.040)) == 2  # 30 / 20


def test_none_is_spared_that_would_be_missed_at_once():
    """2 x 0.45 fit into one, but not into 0.8 of one."""
    assert wanted(host("a", Role.DECODE, 0.019), host("b", Role.DECODE, 0.019)) == 2


def test_full_memory_wants_another_decode_instance():
    """90 of 100 blocks are used, 85 may be."""
    assert wanted(host("a", Role.DECODE, free=10)) == 2


def test_one_of_each_stays_whatever_the_load():
    assert wanted(host("a", Role.DECODE, 0.500)) == 3
    assert wanted(host("a", Role.DECODE, jobs=())) == 1


def fleet(decode_step_s: float, decoders: int = 1) -> list[Host]:
    roles = [Role.DECODE] * decoders + [Role.PREFILL] * (4 - decoders)
    return [host(f"i{n}", role, decode_step_s) for n, role in enumerate(roles)]


def changes(hosts: list[Host], state: RoleState, *times_s: float) -> list[RoleChange | None]:
    found = []
    for now_s in times_s:
        state, change = change_role(state, hosts, now_s, 0.010, RULES)
        found.append(change)
    return found


def test_a_role_changes_only_after_the_load_has_lasted_and_then_rests():
    slow = fleet(0.050)
    change = RoleChange("i1", Role.DECODE)
    assert changes(slow, RoleState(), 0.0, 0.9, 1.0, 2.1, 3.2) == [None, None, change, None, None]
    assert changes(slow, RoleState(changed_s=0.0), 3.0, 4.5, 5.0) == [None, None, change]


def test_a_load_between_the_bounds_changes_nothing():
    assert changes(fleet(0.026, 2), RoleState(), 0.0, 2.0, 9.0) == [None, None, None]


def test_the_instance_with_the_least_to_lose_changes():
    hosts = fleet(0.050)
    hosts[1] = host("i1", Role.PREFILL, jobs=(Job("p", prompt_tokens=900),))
    assert changes(hosts, RoleState(), 0.0, 1.0)[1] == RoleChange("i2", Role.DECODE)


def test_too_many_that_decode_give_one_back():
    assert changes(fleet(0.010, 3), RoleState(), 0.0, 1.0)[1] == RoleChange("i0", Role.PREFILL)


# Pairs


def view(*roles: Role) -> ClusterView:
    seen = ClusterView()
    for number, role in enumerate(roles):
        seen.join(InstanceInfo(f"i{number}", role, 10, 100, 10_000, 256, 8))
    return seen


def choose(pairs: Pairs, seen: ClusterView, request_id: str, source: str = "i0", tokens: int = 300) -> str | None:
    return pairs.choose(RouteRequest(request_id, tokens, 16), seen.snapshot(), source)


def test_a_burst_is_spread_over_decode_instances_before_they_report_it():
    pairs, seen = Pairs(), view(Role.PREFILL, Role.DECODE, Role.DECODE)
    assert [choose(pairs, seen, f"r{n}") for n in range(4)] == ["i1", "i2", "i1", "i2"]
    pairs.over("r0")
    assert choose(pairs, seen, "r4") == "i1"


def test_only_what_is_prefilled_apart_is_handed_over_and_only_where_there_is_room():
    seen = view(Role.PREFILL, Role.DECODE, Role.MIXED)
    assert choose(Pairs(), seen, "r", source="i1") is None
    assert choose(Pairs(), seen, "r", source="i2") is None
    assert choose(Pairs(), seen, "r", tokens=1000) is None
    seen.observe("i1", InstanceLoad(free_blocks=20), 0.0)
    assert choose(Pairs(), seen, "r", tokens=200) is None
    assert choose(Pairs(), seen, "r", tokens=190) == "i1"
