"""A key opens the door of its tenant only, and no two tenants share a salt (P4)."""

import pytest

from shoal.cluster.tenants import ANYBODY, KeyFile, Tenants
from shoal.proto.errors import Unauthenticated
from shoal.proto.security import digest_of

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
    assert {Tenants(None, "s").authenticate(header) for header in (None, "Bearer anything")} == {ANYBODY}


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


def test_an_empty_list_of_keys_lets_nobody_in():
    with pytest.raises(Unauthenticated):
        Tenants({}, "s").authenticate("Bearer anything")


def test_a_key_is_known_by_its_digest_and_the_digest_is_no_key():
    digest = digest_of("key-a")
    assert Tenants({digest: "alice"}, "s").authenticate("Bearer key-a") == "alice"
    with pytest.raises(Unauthenticated):
        Tenants({digest: "alice"}, "s").authenticate(f"Bearer {digest}")


def test_keys_are_rotated_while_the_cluster_runs(tmp_path):
    """Two keys are good until the old one is taken out; a file that makes no sense changes nothing."""
    path = tmp_path / "keys.yaml"
    file, tenants = KeyFile(path, {}), Tenants({}, "s")

    def write(text):
        new = tmp_path / "new"
        new.write_text(text)
        new.replace(path)
        if (keys := file.news()) is not None:
            tenants.replace(keys)
        assert file.news() is None

    def good():
        return [key for key in ("old", "new") if _lets_in(tenants, key)]

    write("old: alice")
    assert good() == ["old"]
    write(f"old: alice\n{digest_of('new')}: alice")
    assert good() == ["old", "new"]
    for nonsense in ("old: [", "- a", "old: {a: b}", "\xff"):
        write(nonsense)
        assert good() == ["old", "new"]
    write("new: alice")
    assert good() == ["new"]
    write("")
    assert good() == []


def _lets_in(tenants, key):
    try:
        return tenants.authenticate(f"Bearer {key}") == "alice"
    except Unauthenticated:
        return False
