"""The configuration as a pod finds it."""

from pathlib import Path

import pytest

from shoal.cluster.config_files import ConfigFiles, read_config
from shoal.proto.errors import StartFailed
from shoal.proto.security import digest_of


def test_secrets_come_from_files_and_win_over_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "shoal.yaml").write_text("{host: node, secret: from-the-file, instances: 3}")
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "secret").write_text("12345678\n")
    (folder / "keys.yaml").write_text("{key-of-ada: ada}")
    (folder / "redis-password").write_text("not a key of ours")
    (folder / "..data").mkdir()
    config = read_config(ConfigFiles(config=tmp_path / "shoal.yaml", secrets=folder))
    assert config.secret.get_secret_value() == "12345678"
    assert (config.keys, config.instances) == ({digest_of("key-of-ada"): "ada"}, 3)
    assert config.keys_file == folder / "keys.yaml"


def test_an_empty_file_of_keys_means_that_nobody_needs_one(tmp_path: Path) -> None:
    (tmp_path / "shoal.yaml").write_text("{host: node}")
    (tmp_path / "keys.yaml").write_text("{}\n")
    config = read_config(ConfigFiles(config=tmp_path / "shoal.yaml", secrets=tmp_path))
    assert not config.needs_key


def test_a_host_that_others_could_not_reach_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shoal.yaml").write_text("{instances: 3}")
    with pytest.raises(StartFailed, match="host: must be 'node'"):
        read_config(ConfigFiles(config=tmp_path / "shoal.yaml"))
