"""A key opens the door of its tenant only, and no two tenants share a salt (P4)."""

import pytest

from shoal.cluster.tenants import ANYBODY, Tenants
from shoal.proto.errors import Unauthenticated

KEYS = {"key-a": "alice", "key-b": "bob", "key-b2": "bob"}


@pytest.mark.parametrize(
    ("header", "tenant"),
    [("Bearer key-a", "alice"), ("bearer key-b", "bob"), ("BEARER  key-b2 ", "bob")],
)
def test_a_key_names_its_tenant(header, tenant):
    assert Tenants(KEYS, "s").authenticate(header) == tenant


@pytest.mark.parametrize(
    "header", [None, "", "key-a", "Bearer", "Bearer ", "Bearer key-", "Bearer KEY-A", "Basic key-a", "Bearer key-a x"]
)
def test_anything_else_is_nobody(header):
    with pytest.raises(Unauthenticated) as caught:
        Tenants(KEYS, "s").authenticate(header)
    assert "key-a" not in str(caught.value)


def test_without_keys_everybody_is_the_same_tenant():
    assert {Tenants({}, "s").authenticate(header) for header in (None, "Bearer anything")} == {ANYBODY}


def test_keys_are_not_kept():
    assert "key-a" not in repr(vars(Tenants(KEYS, "s")))


def test_a_salt_is_of_secret_tenant_and_model_and_of_nothing_else():
    salt = Tenants(KEYS, "s").salt("alice", "m")
    assert salt == Tenants({}, "s").salt("alice", "m")
    others = {
        Tenants(KEYS, "t").salt("alice", "m"),
        Tenants(KEYS, "s").salt("bob", "m"),
        Tenants(KEYS, "s").salt("alice", "n"),
        Tenants(KEYS, "s").salt("alicem", ""),
    }
    assert len({salt, *others}) == 5
