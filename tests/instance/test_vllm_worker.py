"""The random generators of seeded rows: they can be rewound, and stand where they would after the row's output."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import pytest

from shoal.instance.vllm_flags import set_vllm_environment

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def worker() -> Any:
    """Imported when the first of these tests runs: vLLM takes tens of seconds."""
    set_vllm_environment()
    return importlib.import_module("shoal.instance.vllm_worker")


@pytest.fixture(scope="module")
def torch() -> Any:
    return importlib.import_module("torch")


def row(torch: Any, *, seed: int | None = 5, output: tuple[int, ...] = ()) -> Any:
    generator = torch.Generator(device="cpu") if seed is not None else None
    return SimpleNamespace(
        generator=generator, sampling_params=SimpleNamespace(seed=seed), output_token_ids=list(output)
    )


def draws(torch: Any, generator: Any, count: int) -> list[int]:
    """As vLLM's sampler on a CPU draws for one token each."""
    return [int(torch.randint(0, 2**31, (1,), generator=generator, dtype=torch.long).item()) for _ in range(count)]


def undisturbed(torch: Any, count: int, seed: int = 5) -> list[int]:
    return draws(torch, torch.Generator(device="cpu").manual_seed(seed), count)


def test_a_rows_generator_begins_where_its_output_ends(worker: Any, torch: Any) -> None:
    for said in (0, 1, 7):
        generator = worker.RewindableGenerator.for_row(row(torch, output=(1,) * said))
        assert draws(torch, generator, 3) == undisturbed(torch, said + 3)[said:]


def test_a_draw_that_is_taken_back_comes_again(worker: Any, torch: Any) -> None:
    one = row(torch)
    generator = worker.RewindableGenerator.for_row(one)
    for _chunk in range(3):  # each chunk of a prompt draws, and its token is thrown away
        offset = generator.get_offset()
        assert draws(torch, generator, 1) == undisturbed(torch, 1)
        generator.set_offset(offset)
    assert draws(torch, generator, 1) == undisturbed(torch, 1)
    one.output_token_ids.append(9)
    assert draws(torch, generator, 1) == undisturbed(torch, 2)[1:]
    generator.set_offset(generator.get_offset())
    assert draws(torch, generator, 1) == undisturbed(torch, 2)[1:]


def test_the_table_of_rows_gives_each_seeded_row_a_generator_of_its_own(worker: Any, torch: Any) -> None:
    rows = worker.SeededRows()
    rows["a"], rows["b"], rows["c"] = row(torch), row(torch, seed=6, output=(1, 2)), row(torch, seed=None)
    assert rows["c"].generator is None
    assert draws(torch, rows["b"].generator, 2) == undisturbed(torch, 4, seed=6)[2:]
    assert draws(torch, rows["a"].generator, 2) == undisturbed(torch, 2)
    assert rows["a"].generator.row is rows["a"]


def test_to_advance_is_to_draw(worker: Any, torch: Any) -> None:
    generator = torch.Generator(device="cpu").manual_seed(5)
    worker.advance(generator, 4, vocabulary=0)
    assert draws(torch, generator, 2) == undisturbed(torch, 6)[4:]


def test_a_runner_without_rows_is_left_alone(worker: Any) -> None:
    """The V2 runner keeps none and needs none."""
    extension = worker.WorkerExtension()
    extension.model_runner = SimpleNamespace()
    extension.shoal_install_rows()
    extension.shoal_put_row({"req_id": "r"})
    assert vars(extension.model_runner) == {}
