"""P4: no block made under one tenant is served to another, and no tenant can tell from its first token's time what
another has asked.
"""

import os
from random import Random

from shoal.cluster.tenants import Tenants
from shoal.instance.block_keys import block_hashes
from shoal.instance.model_cache import ModelCache
from shoal.instance.pool.key import Space, block_keys
from shoal.instance.pool.ledger import Ledger
from shoal.instance.pool.slots import Tier
from shoal.instance.seam import Submission
from shoal.proto.codec import encode
from shoal.router.prefix_index import PrefixIndex
from tests.instance.peer import fake_engine

REQUESTS = 100_000 if os.environ.get("SHOAL_NIGHTLY") else 10_000
PROBES = 1000
BLOCK, BLOCKS = 4, 6
TENANTS = [f"tenant-{n}" for n in range(8)]
SPACE = Space("m", "w", "float32", "L", BLOCK, 0, 1, "seed")


class Stores:
    """The three places that find blocks by name: an engine's cache, the router's index, a node's pool."""

    def __init__(self) -> None:
        self.cache = ModelCache(1 << 16, record_changes=False)
        self.index = PrefixIndex(1 << 16)
        self.index.join("i0")
        self.pool = Ledger(1024)
        for _ in range(16):
            self.pool.slots.add_segment(Tier.MEMORY)

    def found(self, salt, hashes):
        pooled = block_keys(SPACE.root(salt), hashes)
        return [
            self.cache.match(hashes, len(hashes)),
            self.index.match(hashes).get("i0", 0),
            self.pool.match(pooled),
        ]

    def keep(self, tenant, salt, hashes):
        self.cache.install(hashes)
        self.index.stored("i0", hashes)
        granted = self.pool.reserve("w", tenant, block_keys(SPACE.root(salt), hashes), deadline_s=1.0)
        self.pool.publish("w", list(granted.slots))


def test_in_ten_thousand_requests_no_tenant_finds_a_block_that_it_did_not_make():
    rng, stores, tenants = Random(7), Stores(), Tenants(None, "secret")
    heads = [[rng.randrange(256) for _ in range(BLOCK * BLOCKS)] for _ in range(40)]
    made: dict[str, set[tuple[int, ...]]] = {tenant: set() for tenant in TENANTS}
    others_had_it = own_hits = 0
    for _ in range(REQUESTS):
        tenant, cut = rng.choice(TENANTS), BLOCK * rng.randint(1, BLOCKS)
        prompt = rng.choice(heads)[:cut] + [rng.randrange(256) for _ in range(BLOCK * BLOCKS - cut)]
        salt = tenants.salt(tenant, "m")
        hashes = block_hashes(prompt, BLOCK, salt=salt)
        prefixes = [tuple(prompt[: BLOCK * (n + 1)]) for n in range(BLOCKS)]
        own = next((n for n, one in enumerate(prefixes) if one not in made[tenant]), BLOCKS)
        assert max(stores.found(salt, hashes)) <= own, "a block of another tenant was found"
        others_had_it += own < BLOCKS and any(prefixes[own] in made[other] for other in TENANTS if other != tenant)
        own_hits += min(stores.found(salt, hashes)) == own > 0
        stores.keep(tenant, salt, hashes)
        made[tenant].update(prefixes)
    assert others_had_it > 300 and own_hits > REQUESTS / 2, "the trial was too easy"


# -- timing


def auc(positive, negative):
    """How often a random one of `positive` is larger than one of `negative`; ties count half. By ranks."""
    ranked = sorted([(value, 1) for value in positive] + [(value, 0) for value in negative])
    rank_sum, at = 0.0, 0
    while at < len(ranked):
        end = at
        while end < len(ranked) and ranked[end][0] == ranked[at][0]:
            end += 1
        rank_sum += sum(kind for _, kind in ranked[at:end]) * (at + 1 + end) / 2
        at = end
    return (rank_sum - len(positive) * (len(positive) + 1) / 2) / (len(positive) * len(negative))


def test_the_measure_itself():
    assert auc([3, 4], [1, 2]) == 1.0 and auc([1, 2], [3, 4]) == 0.0 and auc([1, 2], [1, 2]) == 0.5


def probe_auc(prober_salt):
    """The victim asks half of the prompts. Modelled time to first token of the prober, for those against the others."""
    rng, took = Random(3), []
    engine = fake_engine(took.append, total_blocks=1 << 15)
    prompts = [[rng.randrange(256) for _ in range(64)] for _ in range(PROBES)]
    asked = set(rng.sample(range(PROBES), PROBES // 2))
    for n in asked:
        ttft_s(engine, took, f"v{n}", prompts[n], "victim")
    jitter = Random(4)
    times = [ttft_s(engine, took, f"p{n}", prompts[n], prober_salt) + jitter.gauss(0, 1e-4) for n in range(PROBES)]
    hits, misses = ([times[n] for n in range(PROBES) if (n in asked) is had] for had in (True, False))
    return max(auc(misses, hits), auc(hits, misses))


def ttft_s(engine, took, name, prompt, salt):
    """In steps of modelled time: virtual, so that no machine's speed is in it."""
    wire = encode([name, prompt, None, {"max_tokens": 1}, None, 0.0, None, salt])
    engine.add(engine.prepare(Submission(name, 1, wire)))
    took.clear()
    while engine.has_work():
        engine.step()
    return sum(took)


def test_a_classifier_of_times_to_first_token_learns_nothing_about_another_tenant():
    tenants = Tenants(None, "secret")
    assert tenants.salt("victim", "m") != tenants.salt("spy", "m")
    assert probe_auc("victim") > 0.99, "within one tenant the cache must show, else this test proves nothing"
    assert probe_auc("spy") <= 0.55
