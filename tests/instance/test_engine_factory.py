"""The configuration names the engine; a model that is not there is a StartFailed that names it."""

import subprocess
import sys
from pathlib import Path

import pytest

from shoal.instance.engine_factory import build_engine, import_engine, is_local, resolve_model
from shoal.instance.fake_engine import FakeEngine
from shoal.proto.config import ClusterConfig, parse_config
from shoal.proto.errors import StartFailed


def config(model: str) -> ClusterConfig:
    return parse_config({"model": model})


def test_a_fake_engine_is_built_from_its_part_of_the_configuration() -> None:
    tree = {"engine": {"kind": "fake", "block_size": 8}, "fake": {"total_blocks": 99}, "served_model_name": "m"}
    engine = build_engine(parse_config(tree))
    assert isinstance(engine, FakeEngine)
    assert (engine.info.block_size, engine.info.total_blocks, engine.info.model) == (8, 99, "m")
    assert engine.info.vllm_version.startswith("0.32.")


def test_a_fake_engine_needs_no_vllm_and_no_torch() -> None:
    code = (
        "import sys\n"
        "for name in ('vllm', 'torch', 'ray'): sys.modules[name] = None\n"
        "from shoal.proto.config import parse_config\n"
        "from shoal.instance.engine_factory import build_engine, import_engine\n"
        "c = parse_config({'engine': {'kind': 'fake'}})\n"
        "import_engine(c); build_engine(c).warm_up()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_importing_for_a_fake_engine_does_nothing() -> None:
    import_engine(parse_config({"engine": {"kind": "fake"}}))


def test_a_folder_with_a_model_is_that_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert resolve_model(config(str(tmp_path))) == str(tmp_path)
    assert is_local(str(tmp_path))


@pytest.mark.parametrize("path", ["/no/such/folder", "./nothing", "../nothing", "~/no-such-model-folder"])
def test_a_path_without_a_model_is_refused_by_name(path: str) -> None:
    with pytest.raises(StartFailed, match="not a model folder") as failed:
        resolve_model(config(path))
    assert path in str(failed.value)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match=r"no config\.json"):
        resolve_model(config(str(tmp_path)))


def test_any_other_name_is_left_to_the_hub() -> None:
    assert resolve_model(config("some-org/some-model")) == "some-org/some-model"
    assert not is_local("some-org/some-model")


def test_the_tiny_model_is_made_on_the_spot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shoal.instance.engine_factory.ensure_tiny_model", lambda: tmp_path / "tiny")
    assert resolve_model(config("tiny")) == str(tmp_path / "tiny")
