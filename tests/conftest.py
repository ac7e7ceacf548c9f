"""What every test runs under: hypothesis profiles (same examples each run; many more in `make nightly`), and the two
lanes that `make unit` runs side by side.
"""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "commit", deadline=None, derandomize=True, max_examples=100, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("nightly", deadline=None, max_examples=5000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("nightly" if os.environ.get("SHOAL_NIGHTLY") else "commit")


def pytest_addoption(parser: pytest.Parser) -> None:
    words = "heavy: the tests that import vLLM or start Ray; light: all others; without it: both"
    parser.addoption("--lane", choices=["heavy", "light"], help=words)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A file *_vllm.py imports vLLM at its top."""
    return True if config.getoption("lane") == "light" and collection_path.name.endswith("_vllm.py") else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if (lane := config.getoption("lane")) is None:
        return
    config.hook.pytest_deselected(items=[item for item in items if _is_heavy(item) != (lane == "heavy")])
    items[:] = [item for item in items if _is_heavy(item) == (lane == "heavy")]


def _is_heavy(item: pytest.Item) -> bool:
    heavy = item.get_closest_marker("vllm") or item.get_closest_marker("ray")
    return heavy is not None or item.path.name.endswith("_vllm.py")
