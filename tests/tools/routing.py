"""A cluster view from a few words, and what a policy makes of it."""

from random import Random

from shoal.router.contract import InstanceInfo, InstanceLoad, Placement, Role, RouteRequest
from shoal.router.place import place
from shoal.router.prefix_index import Tier
from shoal.router.profile import build_policy
from shoal.router.view import ClusterView

BLOCK = 10
CHAIN = tuple(bytes([n]) for n in range(10))


def instance(name: str, **facts: object) -> InstanceInfo:
    return InstanceInfo(
        **{"id": name, "role": Role.MIXED, "block_size": BLOCK, "total_blocks": 100, "max_model_len": 1000}
        | {"max_num_batched_tokens": 256, "max_num_seqs": 8}
        | facts
    )


def view_of(**instances: tuple[InstanceLoad, int]) -> ClusterView:
    """name -> (load, how many leading blocks of CHAIN are on its device)"""
    view = ClusterView()
    for name, (load, blocks) in instances.items():
        view.join(instance(name))
        view.observe(name, load, 0.0)
        view.block_changes(name, "stored", CHAIN[:blocks])
    return view


def hold(view: ClusterView, name: str, blocks: slice, tier: Tier) -> None:
    view.block_changes(name, "stored", CHAIN[blocks], tier)


def decide(policy: str, view: ClusterView, tokens: int = 105, seed: int = 0) -> Placement:
    """For a prompt of CHAIN and half a block."""
    decision = place(RouteRequest("r", tokens, 5, CHAIN), view, build_policy(policy), 0.0, Random(seed))
    assert isinstance(decision, Placement)
    return decision


def chosen(policy: str, view: ClusterView) -> set[str]:
    """All that it may choose, by ties."""
    return {decide(policy, view, seed=seed).instance for seed in range(40)}


def costs(policy: str, view: ClusterView) -> dict[str, float]:
    return {name: sum(t.raw * t.weight for t in terms) for name, terms in decide(policy, view).terms.items()}
