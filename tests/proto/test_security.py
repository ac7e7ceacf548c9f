"""Keys are nowhere in plain text, secrets for different purposes have nothing in common, and half a set of certificates
is an error.
"""

import pytest

from shoal.proto.config import ClusterConfig, parse_config
from shoal.proto.errors import StartFailed
from shoal.proto.security import as_digests, derive, digest_of, owner_of


def test_a_configuration_forgets_the_keys_that_it_was_given():
    config = parse_config({"keys": {"canary-key": "ada"}, "admin_keys": {"canary-admin": "eve"}})
    assert "canary" not in repr(config) + config.model_dump_json()
    assert parse_config(config.model_dump(mode="json", exclude={"secret"})).keys == config.keys
    assert owner_of("canary-key", config.keys) == "ada" and owner_of("canary-admin", config.admin_keys) == "eve"
    assert owner_of("canary-key", config.admin_keys) is None


def test_a_digest_is_taken_as_one_only_where_it_is_one():
    digest = digest_of("k")
    assert as_digests({digest: "a"}) == {digest: "a"}
    assert as_digests({digest.upper(): "a"}) == {digest_of(digest.upper()): "a"}


def test_each_purpose_has_a_secret_of_its_own():
    tokens = {derive("s", purpose) for purpose in ("inner", "admin", "salt", "ray")} | {derive("t", "inner"), "s"}
    assert len(tokens) == 6


def test_one_tenants_limits_are_its_own_or_everybodys():
    config = ClusterConfig(tenants={"ada": {"concurrent": 2}, "*": {"concurrent": 5}})
    assert (config.tenant("ada").concurrent, config.tenant("bob").concurrent) == (2, 5)
    assert ClusterConfig().tenant("bob").concurrent is None


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"tls": {"edge_cert": "a.pem"}}, "edge_key: must be given with edge_cert"),
        ({"tls": {"inner_cert": "a.pem", "inner_key": "k.pem"}}, "inner_ca"),
        (
            {
                "tls": {"inner_cert": "a", "inner_key": "b", "inner_ca": "c"},
                "pool": {"memory_bytes": 1, "transports": ["nixl"]},
            },
            "nixl does not encrypt",
        ),
        ({"tenants": {"ada": {"requests_per_s": 0}}}, "tenants.ada.requests_per_s"),
    ],
)
def test_what_contradicts_itself_is_named(tree, words):
    with pytest.raises(StartFailed, match=words):
        parse_config(tree)
