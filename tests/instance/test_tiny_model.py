"""The first run's model: made once, whole or not at all, and a real tokenizer and chat template come with it."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from shoal.instance import tiny_model
from shoal.instance.tiny_model import RECIPE, ensure_tiny_model, tiny_model_path


def _stub(folder):
    (folder / "config.json").write_text("{}")


def test_it_is_made_once(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(tiny_model, "_write", lambda folder: (made.append(folder), _stub(folder)))
    assert ensure_tiny_model(tmp_path) == ensure_tiny_model(tmp_path) == tiny_model_path(tmp_path)
    assert len(made) == 1


def test_many_at_once_all_get_a_whole_folder_and_leave_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny_model, "_write", _stub)
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: ensure_tiny_model(tmp_path), range(32)))
    assert set(folders) == {tiny_model_path(tmp_path)}
    assert [p.name for p in tmp_path.iterdir()] == [tiny_model_path().name]
    assert (folders[0] / "config.json").exists()


def test_a_failure_half_way_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(folder):
        _stub(folder)
        raise OSError("disk full")

    monkeypatch.setattr(tiny_model, "_write", fail)
    with pytest.raises(OSError, match="disk full"):
        ensure_tiny_model(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_recipe_is_another_folder(monkeypatch):
    before = tiny_model_path()
    monkeypatch.setitem(RECIPE, "layers", 9)
    assert tiny_model_path() != before


@pytest.mark.vllm
@pytest.mark.filterwarnings("default")
def test_the_real_one_has_the_recipes_shape_and_a_tokenizer_for_any_bytes(tmp_path):
    from transformers import AutoTokenizer  # noqa: PLC0415  heavy

    folder = ensure_tiny_model(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    assert (config["num_hidden_layers"], config["hidden_size"]) == (8, 256)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert config["vocab_size"] == len(tokenizer)
    text = "Ünïcode \U0001f41f and\ttabs\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat == "<s>user: hi\n<s>assistant: "
