"""Builds the engine that the configuration names. vLLM is imported only where it is the one asked for."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import NoReturn

from shoal.instance.pool.weights import weights_digest
from shoal.instance.seam import Engine
from shoal.instance.tiny_model import ensure_tiny_model
from shoal.instance.vllm_flags import set_vllm_environment, vllm_flags
from shoal.proto.config import ClusterConfig
from shoal.proto.errors import StartFailed

FAKE_VERSION_FOR_FRONTENDS = "0.32.0"  # a fake engine speaks this vLLM's wire structs


def resolve_model(config: ClusterConfig) -> str:
    """The folder or Hugging Face id to load. Raises StartFailed for a path that does not hold a model."""
    if config.model == "tiny":
        return str(ensure_tiny_model())
    looks_like_path = config.model.startswith(("/", "./", "../", "~"))
    path = Path(config.model).expanduser()
    if looks_like_path or path.exists():
        if not (path / "config.json").is_file():
            raise StartFailed(f"model: {config.model} is not a model folder (no config.json in it)")
        return str(path.resolve())
    return config.model


def digest_of_weights(config: ClusterConfig) -> str:
    """Of the model folder, also where it came from a hub. Not found: a name of its own, so that nothing is shared."""
    folder = Path(resolve_model(config))
    if not folder.is_dir():
        from huggingface_hub import snapshot_download  # noqa: PLC0415 - comes with vLLM only

        try:
            folder = Path(snapshot_download(str(folder), local_files_only=True))
        except OSError:
            return f"unknown-{secrets.token_hex(16)}"
    return weights_digest(folder)


def is_local(model_path: str) -> bool:
    return Path(model_path).exists()


def import_engine(config: ClusterConfig) -> None:
    """Pay the import (12 to 40 s for vLLM) ahead of the start."""
    if config.engine.kind == "vllm":
        set_vllm_environment()
        import shoal.instance.vllm_engine  # noqa: F401, PLC0415 - heavy, and absent where only fake engines run


def _refuse_flags(message: str) -> NoReturn:
    raise StartFailed(f"engine: vLLM does not take its flags: {message}")


def build_engine(config: ClusterConfig) -> Engine:
    """Raises StartFailed with one line. Takes seconds to minutes."""
    if config.engine.kind == "fake":
        from shoal.instance.fake_engine import FakeEngine  # noqa: PLC0415 - one of two engines

        return FakeEngine(config.engine, config.fake, model=config.model_name, vllm_version=FAKE_VERSION_FOR_FRONTENDS)
    model_path = resolve_model(config)
    if is_local(model_path):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import_engine(config)
    from shoal.instance.vllm_engine import VllmEngine, on_cpu  # noqa: PLC0415 - heavy
    from shoal.instance.vllm_seam import AsyncEngineArgs, argument_parser  # noqa: PLC0415 - heavy

    flags = vllm_flags(config, model_path=model_path, on_cpu=on_cpu())
    parser = argument_parser()
    parser.error = _refuse_flags  # its own way to refuse is to end the process
    args = parser.parse_args(flags)
    return VllmEngine(AsyncEngineArgs.from_cli_args(args), config.model_name, pool=config.pool.memory_bytes > 0)


__all__ = ["build_engine", "digest_of_weights", "import_engine", "is_local", "resolve_model"]
