"""A teacher who follows a rule is imitated."""

import numpy as np

from shoal.bench.train.imitate import agreement, imitate
from shoal.router.features import FEATURES


def test_a_teacher_who_looks_at_one_feature_only_is_imitated():
    rng = np.random.default_rng(0)
    rows = [rng.random((rng.integers(2, 6), len(FEATURES))) for _ in range(300)]
    for here in rows:
        here[:, FEATURES.index("dear")] *= 0.01
    chosen = [int(here[:, FEATURES.index("miss")].argmin()) for here in rows]
    w = imitate(rows, chosen, rng)
    assert w.argmax() == FEATURES.index("miss")
    assert agreement(rows, chosen, w) > 0.8 > 0.5 > agreement(rows, chosen, np.zeros(len(FEATURES)))
