"""Coefficients that made the times are found in them again."""

import gzip
import itertools

import pytest

from shoal.bench.sim.fit import FITS, Measured, read_table
from shoal.bench.sim.step_times import catalogue, step_time
from shoal.instance.step_time import HingeStepTime, LinearStepTime, StepWork, TableStepTime, WithOverhead
from shoal.proto.errors import InvalidArgument

WORKS = [
    StepWork(p, p * ctx + p * p / 2, d, d * each)
    for p, ctx, d, each in itertools.product((0, 64, 128, 512, 2048), (0, 4000), (0, 1, 32, 128), (64, 2048))
    if p + d
]


@pytest.mark.parametrize(
    ("form", "truth"),
    [
        ("linear", LinearStepTime(10, 0.03, 2, 0.02, 0.1)),
        ("linear", LinearStepTime(10, 0.03, 0, 0.02, 0.1)),
        ("hinge", HingeStepTime(10, 0.03, 2, 0.02, 0.1, hinge_tokens=128)),
    ],
)
def test_a_fit_finds_what_made_the_times(form, truth):
    fit = FITS[form]([Measured(work, truth.step_ms(work)) for work in WORKS])
    assert fit.mape < 1e-9
    for work in WORKS:
        assert fit.step_time.step_ms(work) == pytest.approx(truth.step_ms(work))


def test_a_table_follows_a_bend_that_no_line_can():
    truth = HingeStepTime(10, 0.05, 2, 0.02, 0.1, hinge_tokens=128)
    rows = [Measured(work, truth.step_ms(work)) for work in WORKS]
    assert FITS["table"](rows).mape < 0.002 < 0.02 < FITS["linear"](rows).mape


def test_a_table_goes_straight_between_its_knots_and_on_beyond_the_last():
    table = TableStepTime((1, 11, 21), (5.0, 5.0, 7.0), c_ms=0, d_ms=0.5, e_ms=100)
    times = [table.step_ms(StepWork(prefill_tokens=tokens)) for tokens in (1, 6, 11, 16, 21, 31)]
    assert times == pytest.approx([5, 5, 5, 6, 7, 9])
    assert table.step_ms(StepWork(decodes=1, context_tokens=10)) == pytest.approx(5 + 0.5 + 1)
    assert table.growth_ms == pytest.approx(0.1)


def test_no_coefficient_is_negative():
    rows = [Measured(StepWork(p), 100 - p) for p in (1, 2, 3, 4)]
    fitted = FITS["linear"](rows).step_time
    assert min(fitted.a_ms, fitted.b_ms, fitted.c_ms, fitted.d_ms, fitted.e_ms) >= 0


def test_tables_of_both_column_sets_are_read_and_their_lines_chosen(tmp_path):
    (tmp_path / "a.csv").write_text(
        "gpu,prefill_tokens,prefill_ctx,decode_seqs,decode_ctx,ms\nx,16,4,2,100,7.5\ny,16,4,2,100,9\n"
    )
    (tmp_path / "b.csv.gz").write_bytes(
        gzip.compress(b"prefill_chunk,kv_prefill,n_decode,kv_decode,ms\n16,4,2,100,7.5\n")
    )
    wanted = [Measured(StepWork(16, 16 * 4 + 128.0, 2, 200), 7.5)]
    assert read_table(tmp_path / "a.csv", {"gpu": "x"}) == read_table(tmp_path / "b.csv.gz") == wanted
    (tmp_path / "c.csv").write_text("prefill_tokens,ms\n16,1\n")
    with pytest.raises(InvalidArgument, match="line 2"):
        read_table(tmp_path / "c.csv")


def test_every_entry_of_the_catalogue_is_a_model_with_a_source():
    decode = StepWork(decodes=1, context_tokens=1000)
    for name, entry in catalogue().items():
        assert entry.source
        assert step_time(name, form="linear").step_ms(decode) == pytest.approx(step_time(name).step_ms(decode), rel=0.3)
    h100 = step_time("llama-3.1-8b/h100/tp1", form="linear", overhead_ms=2.0)
    assert isinstance(h100, WithOverhead)
    assert h100.step_ms(decode) == pytest.approx(6.06839 + 0.0133035 + 0.0418514 + 2)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(InvalidArgument, match="qwen3-32b/h100/tp2"):
        step_time("gpt-5")
