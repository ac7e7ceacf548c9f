"""The digest of a model's weights: blocks computed by other weights must never be found under the same name."""

from __future__ import annotations

from pathlib import Path

from blake3 import blake3

SUFFIXES = (".safetensors", ".bin", ".pt", ".gguf")


def weights_digest(folder: Path) -> str:
    """Over names and contents of the configuration and all weight files; hex. As fast as the disk, on all cores."""
    files = [path for path in sorted(folder.iterdir()) if path.suffix in SUFFIXES or path.name == "config.json"]
    digest = blake3()
    for path in files:
        hasher = blake3(max_threads=blake3.AUTO)
        hasher.update_mmap(path)
        digest.update(f"{path.name}\n{hasher.hexdigest()}\n".encode())
    return digest.hexdigest()


__all__ = ["weights_digest"]
