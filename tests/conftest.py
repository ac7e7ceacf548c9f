"""What every test runs under: hypothesis profiles (same examples each run; many more in `make nightly`)."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "commit", deadline=None, derandomize=True, max_examples=100, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("nightly", deadline=None, max_examples=5000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("nightly" if os.environ.get("SHOAL_NIGHTLY") else "commit")
