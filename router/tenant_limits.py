"""What each tenant may still use: a bucket of requests, a bucket of tokens, and how many are under way.

Pure: the time is an argument. A bucket fills at its rate up to its size. Tokens are charged when they are known, so the
bucket may go below zero: then its tenant waits until it is above it again. Each frontend grants its part of the rates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from shoal.proto.config import ClusterConfig
from shoal.proto.errors import Overloaded
from shoal.proto.security import TenantConfig

UNDER_WAY_RETRY_S = 1.0


@dataclass(slots=True)
class Bucket:
    """`level` units were left at `at_s`."""

    rate_per_s: float
    size: float
    level: float
    at_s: float

    def wait_s(self, units: float, now_s: float) -> float:
        """Until so many are there; 0: now."""
        self.level = min(self.size, self.level + self.rate_per_s * max(0.0, now_s - self.at_s))
        self.at_s = now_s
        return max(0.0, (units - self.level) / self.rate_per_s)

    def take(self, units: float) -> None:
        self.level -= units


@dataclass(slots=True)
class Account:
    requests: Bucket | None
    tokens: Bucket | None
    concurrent: int | None
    under_way: int = 0


class TenantLimits:
    """Sole owner of the accounts. Without a configuration nobody is limited."""

    def __init__(self, config: ClusterConfig | None = None) -> None:
        self._config = config
        self._accounts: dict[str, Account] = {}
        self.refused: dict[tuple[str, str], int] = {}  # (tenant, which limit) -> how often

    def enter(self, tenant: str, now_s: float) -> None:
        """One request begins. Raises Overloaded, and then it has not."""
        account = self._account(tenant, now_s)
        if account.concurrent is not None and account.under_way >= account.concurrent:
            self._refuse(tenant, "concurrent", f"at most {account.concurrent} at once", UNDER_WAY_RETRY_S)
        if account.tokens is not None and (wait_s := account.tokens.wait_s(1.0, now_s)):
            self._refuse(tenant, "tokens_per_min", f"at most {60 * account.tokens.rate_per_s:g}", wait_s)
        if account.requests is not None:
            if wait_s := account.requests.wait_s(1.0, now_s):
                self._refuse(tenant, "requests_per_s", f"at most {account.requests.rate_per_s:g}", wait_s)
            account.requests.take(1.0)
        account.under_way += 1

    def leave(self, tenant: str) -> None:
        """It ended, however."""
        self._accounts[tenant].under_way -= 1

    def charge(self, tenant: str, tokens: int, now_s: float) -> None:
        bucket = self._account(tenant, now_s).tokens
        if bucket is not None:
            bucket.wait_s(0.0, now_s)  # what was earned until now is earned under the cap
            bucket.take(tokens)

    def priority(self, tenant: str, asked: int) -> int:
        """The smaller, the sooner; nobody jumps further ahead than allowed."""
        best = self._of(tenant).best_priority
        return asked if best is None else max(asked, best)

    def _refuse(self, tenant: str, limit: str, words: str, wait_s: float) -> None:
        self.refused[tenant, limit] = self.refused.get((tenant, limit), 0) + 1
        raise Overloaded(f"{limit} of this tenant at this frontend: {words}", retry_after_s=wait_s)

    def _of(self, tenant: str) -> TenantConfig:
        return TenantConfig() if self._config is None else self._config.tenant(tenant)

    def _account(self, tenant: str, now_s: float) -> Account:
        if tenant not in self._accounts:
            frontends = self._config.frontends if self._config else 1
            self._accounts[tenant] = open_account(self._of(tenant), frontends, now_s)
        return self._accounts[tenant]


def open_account(limits: TenantConfig, frontends: int, now_s: float) -> Account:
    """A full one. What is counted in whole requests is rounded up, so that every frontend serves some."""
    requests = tokens = None
    if limits.requests_per_s is not None:
        size = math.ceil(limits.burst / frontends)
        requests = Bucket(limits.requests_per_s / frontends, size, size, now_s)
    if limits.tokens_per_min is not None:
        minute = limits.tokens_per_min / frontends
        tokens = Bucket(minute / 60, minute, minute, now_s)
    concurrent = None if limits.concurrent is None else math.ceil(limits.concurrent / frontends)
    return Account(requests, tokens, concurrent)


__all__ = ["Account", "Bucket", "TenantLimits", "open_account"]
