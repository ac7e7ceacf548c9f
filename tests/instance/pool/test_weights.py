"""Other weights, another digest; the same weights, the same one wherever they lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.instance.pool.weights import weights_digest

FILES = {"config.json": b"{}", "a.safetensors": b"one" * 1000, "b.safetensors": b"two", "README.md": b"words"}


def model(folder: Path, **changes: bytes | None) -> Path:
    """`changes`: name (with _ for .) -> other content, or None to leave the file out."""
    folder.mkdir()
    for name, content in {**FILES, **{name.replace("_", "."): data for name, data in changes.items()}}.items():
        if content is not None:
            (folder / name).write_bytes(content)
    return folder


def test_a_copy_of_the_model_has_the_same_digest(tmp_path):
    one, copy = weights_digest(model(tmp_path / "one")), weights_digest(model(tmp_path / "copy"))
    assert one == copy and len(one) == 64


def test_what_is_no_weight_does_not_count(tmp_path):
    assert weights_digest(model(tmp_path / "one")) == weights_digest(model(tmp_path / "two", README_md=b"other words"))


@pytest.mark.parametrize(
    "change",
    [
        {"a_safetensors": b"one" * 999 + b"onf"},
        {"config_json": b"{ }"},
        {"b_safetensors": None},
        {"c_gguf": b""},
        {"a_safetensors": FILES["b.safetensors"], "b_safetensors": FILES["a.safetensors"]},
    ],
    ids=["a byte", "the configuration", "a file less", "an empty file more", "two files swapped"],
)
def test_any_change_of_the_weights_changes_the_digest(tmp_path, change):
    assert weights_digest(model(tmp_path / "one")) != weights_digest(model(tmp_path / "other", **change))
