import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest


async def bench(*flags: str, cache: str, interrupt_when: Callable[[], bool] | None = None) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shoal.bench", "load", *flags,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={**os.environ, "XDG_CACHE_HOME": cache},
    )  # fmt: skip
    try:
        if interrupt_when is not None:
            async with asyncio.timeout(110):
                while not interrupt_when():
                    await asyncio.sleep(0.01)
            process.send_signal(signal.SIGINT)
        out, err = await asyncio.wait_for(process.communicate(), 110)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def last_json(out: str) -> dict[str, Any]:
    return json.loads(out.splitlines()[-1])


async def test_one_run_from_the_command_line(server, tmp_path):
    plot = tmp_path / "p.png"
    code, out, err = await bench(
        "--url", server.url, "--rate", "200", "--requests", "40", "--warmup", "10", "--input-tokens", "7",
        "--output-tokens", "4", "--json", "--plot", str(plot), cache=str(tmp_path),
    )  # fmt: skip
    result = last_json(out)
    assert (code, len(out.splitlines()), result["completed"], result["failed"], result["warmup_failed"]) == (
        0,
        1,
        40,
        0,
        0,
    )
    assert (result["total_input_tokens"], result["total_output_tokens"], result["num_prompts"]) == (280, 160, 40)
    assert (result["model_id"], result["instances"]) == ("whole", {"i0": 40})
    assert len(server.bodies) == 50 and {len(body["prompt"]) for body in server.bodies} == {7}
    assert "50/50" in err
    assert plot.read_bytes().startswith(b"\x89PNG")


async def test_a_closed_loop(server, tmp_path):
    server.token_s = 0.002
    flags = ("--concurrency", "4", "--requests", "20", "--output-tokens", "3", "--json")
    code, out, _ = await bench("--url", server.url, *flags, cache=str(tmp_path))
    assert (code, last_json(out)["completed"]) == (0, 20) and 1 < server.most_running <= 4


async def test_clients_that_hang_up_are_counted_apart(server, tmp_path):
    server.token_s = 0.002
    flags = ("--concurrency", "4", "--requests", "20", "--output-tokens", "3", "--hangup", "0.5", "--json")
    code, out, _ = await bench("--url", server.url, *flags, cache=str(tmp_path))
    result = last_json(out)
    assert code == 0 and result["hung_up"] > 0 and result["hung_up"] + result["completed"] == 20


async def test_a_trace(server, tmp_path):
    trace = tmp_path / "t.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-01-01 00:00:00,50,5\n2023-01-01 00:00:01,90,7\n")
    code, out, _ = await bench(
        "--url", server.url, "--trace", str(trace), "--time-scale", "0.1", "--json", cache=str(tmp_path)
    )
    assert (code, last_json(out)["total_input_tokens"], last_json(out)["total_output_tokens"]) == (0, 140, 12)


async def test_stopping_by_hand_gives_the_partial_result(server, tmp_path):
    flags = ("--rate", "20", "--requests", "10000", "--output-tokens", "2", "--json")
    code, out, _ = await bench(
        "--url", server.url, *flags, cache=str(tmp_path), interrupt_when=lambda: len(server.bodies) > 5
    )
    result = last_json(out)
    assert code == 130 and result["interrupted"] and result["not_sent"] > 0


async def test_it_ends_within_the_time_given(server, tmp_path):
    flags = ("--model", "mute", "--rate", "50", "--requests", "5", "--timeout", "1", "--json")
    code, out, _ = await bench("--url", server.url, *flags, cache=str(tmp_path))
    result = last_json(out)
    assert code == 0 and result["timed_out"] and result["errors_by_kind"] == {"timeout": 5}


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("--rate", "5", "--trace", "/nowhere.csv"), "nowhere.csv"),
        ((), "rate"),
        (("--rate", "5", "--concurrency", "2"), "concurrency"),
        (("--rate", "5", "--arrival", "bursty"), "arrival"),
        (("--rate", "5", "--requests", "0"), "requests"),
        (("--rate", "5", "--percentiles", "101"), "percentiles"),
        (("--rate", "5"), "no model list"),
    ],
)
def test_what_cannot_be_measured_is_one_line_and_a_code(flags, word, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    from shoal.bench.cli import main  # noqa: PLC0415 - after the environment is set

    assert main(["load", "--url", "http://127.0.0.1:1", *flags]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("shoal bench")]
    assert len(lines) == 1 and word in lines[0]
