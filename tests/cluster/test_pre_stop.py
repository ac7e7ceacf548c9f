"""A pod that must go waits for its clients, and not for ever."""

from collections.abc import Iterator

from shoal.cluster.pre_stop import await_idle, open_requests, read_page

BUSY = '# TYPE shoal_frontend_open_requests gauge\nshoal_frontend_open_requests{frontend="a"} 2.0\nother{} 9\n'
IDLE = BUSY.replace("2.0", "0.0")


def test_open_requests_are_read_from_the_page() -> None:
    assert open_requests(BUSY) == 2
    assert open_requests(IDLE) == 0


def test_it_waits_until_the_last_client_has_its_answer() -> None:
    pages: Iterator[str] = iter([BUSY, BUSY, IDLE, BUSY])
    assert await_idle(lambda: next(pages), wait_s=60, poll_s=0)
    assert next(pages) == BUSY  # it asked no more than needed


def test_it_does_not_wait_for_ever() -> None:
    assert not await_idle(lambda: BUSY, wait_s=0, poll_s=0)


def test_a_frontend_that_is_gone_has_no_clients() -> None:
    assert read_page("http://127.0.0.1:9/metrics") == ""
