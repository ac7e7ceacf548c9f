"""The router floor is pure: it imports without ray, vllm, torch, grpc, asyncio, and has no clock or dice of its own."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROUTER = Path(__file__).parents[2] / "router"
MODULES = sorted(path.stem for path in ROUTER.glob("*.py") if path.stem != "__init__")
BLOCKED = ("ray", "vllm", "torch", "grpc")
# Pydantic (through proto.config) may import asyncio and clocks for itself; the floor's own code may not.
NEVER_IMPORTED = (*BLOCKED, "asyncio", "time", "datetime", "threading", "os", "secrets", "numpy.random")
LOWER_FLOORS = ("shoal.proto", "shoal.router")


def test_router_imports_with_heavy_modules_blocked():
    block = f"import sys; sys.modules.update(dict.fromkeys({(*BLOCKED, 'asyncio')!r}))"
    imports = "; ".join(f"import shoal.router.{module}" for module in MODULES)
    done = subprocess.run([sys.executable, "-c", f"{block}; {imports}"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def imported(module: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse((ROUTER / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_a_clock_a_shell_or_a_higher_floor(module):
    names = imported(module)
    assert not {name for name in names if name in NEVER_IMPORTED or name.split(".")[0] in NEVER_IMPORTED}
    assert not {name for name in names if name.startswith("shoal.") and not name.startswith(LOWER_FLOORS)}
    assert {name for name in names if name.split(".")[0] == "random"} <= {"random", "random.Random"}


@pytest.mark.parametrize("module", MODULES)
def test_no_module_calls_a_random_source_of_its_own(module):
    tree = ast.parse((ROUTER / f"{module}.py").read_text())
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not {name for name in called if name == "Random" or name.startswith(("random.", "np.random."))}


@pytest.mark.parametrize("module", MODULES)
def test_public_names_are_declared_and_exist(module):
    loaded = importlib.import_module(f"shoal.router.{module}")
    assert loaded.__all__ and all(hasattr(loaded, name) for name in loaded.__all__)
