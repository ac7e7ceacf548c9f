import subprocess
import sys

import shoal.cluster.client as client

HEAVY = {"ray", "vllm", "torch", "numpy", "pydantic", "msgspec", "redis", "aiohttp"}


def test_public_names():
    assert sorted(client.__all__) == [
        "Answer", "AsyncShoalClient", "AsyncStream", "CallFailed", "Choice", "RetryPolicy", "ShoalClient", "Stream",
    ]  # fmt: skip
    assert all(hasattr(client, name) for name in client.__all__)


def test_it_imports_nothing_heavy():
    code = "import sys, shoal.cluster.client; print(*{m.split('.')[0] for m in sys.modules})"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    assert not HEAVY & set(names.split())
