"""`python -m shoal.bench NAME ...` is `shoal bench NAME ...`."""

import sys

from shoal.bench.cli import main

sys.exit(main())
