"""The shape of the tree: who may import whom, where heavy or dangerous imports may stand, and which names may not
exist.
"""

import ast
import subprocess
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {"proto": 0, "router": 1, "instance": 2, "cluster": 3}
PRODUCT = (*FLOORS, "bench")

# Who may import what is heavy to load, or ties a file to one engine or runtime. A folder ends in "/".
HEAVY: dict[str, tuple[str, ...]] = {
    "ray": (
        "bench/train/spread.py",
        "cluster/cli/pod.py",
        "cluster/controller_actor.py",
        "cluster/frontend_deployment.py",
        "cluster/frontends.py",
        "cluster/head.py",
        "cluster/launcher_ray.py",
        "cluster/nodes.py",
        "cluster/pre_stop.py",
        "cluster/serve_application.py",
        "cluster/pool_ray.py",
    ),
    "vllm": (
        "cluster/frontend_seam.py",
        "cluster/grpc_api/vllm_port.py",
        "instance/vllm_seam.py",
    ),
    "torch": (
        "instance/kv_connector_worker.py",
        "instance/tiny_model.py",
        "instance/vllm_blocks.py",
        "instance/vllm_worker.py",
    ),
    "transformers": ("instance/tiny_model.py",),
    "redis": ("cluster/registry_redis.py",),
    "opentelemetry": ("instance/otel.py",),
    "grpc": (
        "bench/grpc_client.py",
        "bench/static_controller.py",
        "cluster/admin_gate.py",
        "cluster/client/aio.py",
        "cluster/client/sync.py",
        "cluster/client/transport.py",
        "cluster/console/acts.py",
        "cluster/console/app.py",
        "cluster/console/gallery.py",
        "cluster/controller_client.py",
        "cluster/controller_service.py",
        "cluster/grpc_api/edge.py",
        "cluster/grpc_api/server.py",
        "cluster/inner_service.py",
        "cluster/link.py",
        "cluster/membership_watch.py",
        "cluster/observer.py",
        "cluster/picture.py",
        "cluster/trace_edges.py",
        "instance/actor.py",
        "instance/gate.py",
        "instance/inner_tls.py",
        "instance/migration/line.py",
        "instance/pool/client.py",
        "instance/pool/service.py",
        "instance/pool/trace.py",
        "instance/server.py",
        "proto/v1/",
    ),
}

# Code and data must not be made out of bytes by these.
BANNED_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve"}
BANNED_CALLS = {"eval", "exec", "yaml.load", "yaml.full_load", "yaml.unsafe_load", "torch.load"}

# A policy sees no clock, no chance of its own, no other process.
IMPURE = {"asyncio", "threading", "time", "datetime", "secrets", "uuid", "os", "socket", "subprocess", "logging"}

MAX_LINES = 300


def product_files() -> list[Path]:
    return sorted(path for folder in PRODUCT for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def is_generated(path: Path) -> bool:
    return path.stem.endswith(("_pb2", "_pb2_grpc"))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported, at the top or locally; `from a import b` yields a.b."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def starts_with(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def allowed(path: Path, places: tuple[str, ...]) -> bool:
    name = name_of(path)
    return any(name == place or (place.endswith("/") and name.startswith(place)) for place in places)


def complain(problems: list[str]) -> None:
    assert not problems, "\n" + "\n".join(problems)


def test_a_file_imports_from_its_own_floor_or_a_lower_one():
    problems = []
    for path in product_files():
        here = path.relative_to(ROOT).parts[0]
        for line, name in imports(path):
            parts = name.split(".")
            if parts[0] in PRODUCT:
                problems.append(f"{name_of(path)}:{line}: import {name} must read shoal.{name}")
            if parts[0] != "shoal" or here == "bench":
                continue
            there = parts[1]
            # The command line loads the benchmarks only when asked for one.
            if there == "bench" and name_of(path).startswith("cluster/cli/"):
                continue
            if FLOORS.get(there, 99) > FLOORS[here]:
                problems.append(f"{name_of(path)}:{line}: {here}/ must not import {name}")
    complain(problems)


def test_heavy_imports_stand_in_the_named_files_only():
    problems = [
        f"{name_of(path)}:{line}: imports {name}; only {', '.join(places)} may"
        for path in product_files()
        for line, name in imports(path)
        for library, places in HEAVY.items()
        if starts_with(name, library) and not allowed(path, places)
    ]
    complain(problems)


def test_every_named_file_exists_and_needs_its_permission():
    """So that the list above stays a list of facts."""
    problems = []
    for library, places in HEAVY.items():
        for place in places:
            inside = [path for path in product_files() if allowed(path, (place,))]
            if not any(starts_with(name, library) for path in inside for _, name in imports(path)):
                problems.append(f"HEAVY[{library!r}]: nothing in {place} imports it")
    complain(problems)


def test_the_router_is_pure():
    problems = []
    for path in sorted((ROOT / "router").rglob("*.py")):
        for line, name in imports(path):
            if any(starts_with(name, library) for library in (*HEAVY, *IMPURE)):
                problems.append(f"{name_of(path)}:{line}: imports {name}")
            if starts_with(name, "random") and name not in ("random", "random.Random"):
                problems.append(f"{name_of(path)}:{line}: {name}: take a random.Random as an argument")
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith(("random.", "Random")):
                problems.append(f"{name_of(path)}:{node.lineno}: takes chance by itself: {ast.unparse(node)}")
    complain(problems)


def test_nothing_makes_objects_or_code_out_of_bytes():
    problems = []
    for path in product_files():
        for line, name in imports(path):
            if name.split(".")[0] in BANNED_MODULES:
                problems.append(f"{name_of(path)}:{line}: imports {name}")
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in BANNED_CALLS:
                problems.append(f"{name_of(path)}:{node.lineno}: calls {ast.unparse(node.func)}")
    complain(problems)


def test_whatever_goes_between_our_processes_goes_through_the_cluster_s_tls():
    """A plain channel or port stands only where TLS is decided, at the clients' edge, and in benchmarks."""
    allowed_here = ("instance/inner_tls.py", "cluster/grpc_api/server.py", "cluster/client/", "bench/")
    problems = [
        name_of(path)
        for path in product_files()
        if not is_generated(path) and not allowed(path, allowed_here)
        for word in ("insecure_channel", "add_insecure_port")
        if word in path.read_text()
    ]
    complain(problems)


def test_no_file_is_a_drawer_for_odds_and_ends():
    drawers = {"utils.py", "util.py", "helpers.py", "misc.py", "common.py"}
    complain([name_of(path) for path in product_files() if path.name in drawers])


BLOCKED = """
import importlib, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {heavy!r}:
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Block())
for name in {names!r}:
    importlib.import_module(name)
"""


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_policy_and_shared_words_load_without_any_heavy_library():
    light = [p for folder in ("proto", "router") for p in (ROOT / folder).rglob("*.py") if not is_generated(p)]
    names = ["shoal." + name_of(path).removesuffix(".py").replace("/", ".").removesuffix(".__init__") for path in light]
    heavy = {"ray", "vllm", "torch", "transformers", "redis", "grpc"}
    done = run_python(BLOCKED.format(heavy=heavy, names=sorted(names)))
    assert done.returncode == 0, done.stderr


def test_plain_proto_is_the_library_of_that_name_even_from_the_root_of_the_tree():
    """Ray's dependencies import proto-plus as `proto`."""
    done = run_python("import proto; print(proto.__file__)")
    assert "site-packages" in done.stdout, done.stdout + done.stderr
    assert not (ROOT / "proto" / "__init__.py").exists()


def test_packages_are_listed_for_installation():
    """setuptools does not find sub-packages through the folder mapping."""
    listed = set((ROOT / "pyproject.toml").read_text().split('"'))
    folders = {path.parent.relative_to(ROOT) for path in product_files()}
    missing = sorted(name for folder in folders if (name := "shoal." + ".".join(folder.parts)) not in listed)
    assert not missing, f"pyproject.toml, packages and package-dir: {missing}"


def test_large_files_are_reported():
    for path in product_files():
        lines = len(path.read_text().splitlines())
        if lines > MAX_LINES and not is_generated(path):
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                warnings.warn(f"{name_of(path)}: {lines} lines; what second idea lives there?", stacklevel=1)


@pytest.mark.parametrize("name", ["proto", "router", "instance", "cluster", "bench"])
def test_the_installed_package_is_this_tree(name):
    done = run_python(f"import shoal.{name} as m; print(list(m.__path__)[0])")
    assert Path(done.stdout.strip()) == ROOT / name, done.stderr
