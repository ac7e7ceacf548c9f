"""Configuration: whatever comes in, the answer is a whole, frozen tree or one clear error that names the key."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shoal.proto.config import ClusterConfig, Section, load_config, parse_config
from shoal.proto.errors import StartFailed


def dotted_keys(section: type[Section], prefix: str = "") -> list[str]:
    found = []
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            found += dotted_keys(inner, f"{prefix}{name}.")
        else:
            found.append(prefix + name)
    return found


KEYS = dotted_keys(ClusterConfig)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(max_size=5), SCALARS, max_size=3)


def test_no_keys_at_all_is_a_whole_configuration():
    assert parse_config({}).model_name == "tiny"


@given(st.sampled_from(KEYS), VALUES)
def test_any_value_at_any_key_is_taken_or_refused_by_the_name_of_the_key(key, value):
    try:
        config = load_config(None, {key: value})
    except StartFailed as exc:
        assert key.split(".")[0] in str(exc)
    else:
        assert isinstance(config, ClusterConfig)


@given(st.dictionaries(st.text(max_size=12) | st.sampled_from([k.split(".")[0] for k in KEYS]), VALUES, max_size=4))
def test_any_tree_is_taken_or_refused(tree):
    try:
        parse_config(tree)
    except StartFailed as exc:
        assert str(exc)


@given(st.binary(max_size=300))
def test_any_file_is_taken_or_refused_with_its_name(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("config") / "shoal.yaml"
    path.write_bytes(content)
    try:
        load_config(path, {})
    except StartFailed as exc:
        assert str(exc)


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"instancez": 2}, ["instancez"]),
        ({"instances": 0}, ["instances", "0"]),
        ({"engine": {"block_sise": 16}}, ["engine.block_sise"]),
        ({"engine": {"kind": "other"}}, ["engine.kind", "vllm", "fake", "other"]),
        ({"http_port": 7000, "grpc_port": 7000}, ["http_port and grpc_port", "7000"]),
        ({"http_port": 70000}, ["http_port", "65535"]),
        ({"registry": "etcd://x"}, ["registry"]),
        ({"engine": {"kind": "fake"}, "lora": {"a": "/a"}}, ["lora"]),
        ({"instances": 0, "frontends": 0}, ["instances", "frontends"]),
    ],
)
def test_an_error_names_key_limit_and_given_value(tree, words):
    with pytest.raises(StartFailed) as caught:
        parse_config(tree)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(StartFailed, match=r"config .*absent\.yaml"):
        load_config(tmp_path / "absent.yaml", {})


def test_a_file_that_is_no_mapping_is_refused(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("- a\n- b\n")
    with pytest.raises(StartFailed, match="must be a mapping"):
        load_config(path, {})


def test_a_flag_wins_over_the_file_and_leaves_the_rest(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"instances": 3, "engine": {"block_size": 16, "max_num_seqs": 7}}))
    config = load_config(path, {"engine.block_size": 64})
    assert (config.instances, config.engine.block_size, config.engine.max_num_seqs) == (3, 64, 7)


def test_it_is_frozen():
    with pytest.raises(ValidationError):
        ClusterConfig().instances = 3


def test_secrets_are_masked_and_differ_between_clusters():
    one, other = ClusterConfig(), ClusterConfig()
    assert one.secret.get_secret_value() not in f"{one!r} {one}"
    assert one.secret != other.secret
