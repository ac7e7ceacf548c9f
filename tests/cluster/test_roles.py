import pytest

from shoal.cluster.roles import assign, first_roles, inherit
from shoal.proto.config import DisaggregationConfig
from shoal.proto.errors import InvalidArgument, NotFound

NAMES = ("i0", "i1", "i2")


def test_the_first_ones_prefill_the_next_decode_and_the_rest_does_both():
    assert first_roles(NAMES, DisaggregationConfig(prefill=1, decode=1)) == {"i0": "prefill", "i1": "decode"}


def test_those_not_named_keep_theirs_and_mixed_is_no_role():
    assert assign({"i0": "prefill", "i1": "decode"}, {"i0": "mixed", "i2": "prefill"}, NAMES) == {
        "i1": "decode",
        "i2": "prefill",
    }


def test_an_instance_that_left_has_no_role_any_more():
    assert assign({"gone": "decode", "i1": "decode"}, {}, NAMES) == {"i1": "decode"}


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_somebody_must_prefill_and_somebody_decode(role):
    with pytest.raises(InvalidArgument, match="at least one"):
        assign({}, dict.fromkeys(NAMES, role), NAMES)


def test_unknown_names_and_roles_are_refused():
    with pytest.raises(NotFound):
        assign({}, {"i9": "decode"}, NAMES)
    with pytest.raises(InvalidArgument):
        assign({}, {"i0": "both"}, NAMES)


def test_in_a_rolling_restart_the_new_one_does_what_the_old_one_did():
    roles = {"i0": "prefill", "i1": "decode"}
    assert inherit(roles, "i3", ("i1", "i2")) == {**roles, "i3": "decode"}
    assert inherit(roles, "i3", ("i2",)) == inherit(roles, "", ("i1",)) == roles
