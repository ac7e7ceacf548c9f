"""`bench lengths` judges the model beside what knows less."""

import argparse
from random import Random

import pytest

from shoal.bench import lengths
from shoal.proto.errors import InvalidArgument, NotFound
from shoal.router.contract import RouteRequest, Traits
from shoal.router.length import LengthModel, edges_by_time


def args(**given: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    lengths.add_arguments(parser)
    return argparse.Namespace(**vars(parser.parse_args([])) | given)


def test_what_the_prompt_tells_beats_the_counts_and_counts_per_application_beat_those_of_all():
    rng, asked = Random(0), []
    for _ in range(3000):
        application, long = rng.choice(["a", "b"]), rng.random() < 0.5
        request = RouteRequest("r", 2000 if long else 20, 4096, traits=Traits(application))
        asked.append((request, 5 if application == "a" else 900 if long else 100))
    result = lengths.evaluate(asked, LengthModel(edges_by_time(0.02)))
    loss = result["log_loss"]
    assert loss["model"] < 0.1 < loss["of_application"] < loss["of_all"]
    assert result["accuracy"]["model"] > 0.99 > result["accuracy"]["of_application"]
    assert result["calibration_error"] < 0.02


def test_traces_are_read_by_path(tmp_path):
    rows = "".join(f"2023-11-16 18:00:{n:02}.0,{100 + n},{n + 1}\n" for n in range(50))
    (tmp_path / "t.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows)
    result = lengths.run(args(trace=[f"x={tmp_path / 't.csv'}"])).result
    assert result["requests"] == 50
    assert result["log_loss"].keys() == {"model", "of_all", "of_application"}


def test_missing_data_is_named():
    with pytest.raises(NotFound, match=r"gone\.csv"):
        lengths.run(args(trace=["x=gone.csv"]))
    with pytest.raises(InvalidArgument, match="APPLICATION=FILE"):
        lengths.run(args(trace=["gone.csv"]))
