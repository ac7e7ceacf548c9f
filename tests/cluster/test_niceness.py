"""Priority goes down only where it can come back, and for every thread."""

from __future__ import annotations

import os
import threading

import pytest

from shoal.cluster import niceness


def thread_niceness() -> set[int]:
    return {os.getpriority(os.PRIO_PROCESS, int(thread)) for thread in os.listdir("/proc/self/task")}


def test_all_threads_go_down_and_come_back():
    before, end = os.getpriority(os.PRIO_PROCESS, 0), threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        if not niceness.renice(os.getpid(), 19):
            assert not niceness.can_restore() and thread_niceness() == {before}
            return
        assert thread_niceness() == {19}
        assert niceness.renice(os.getpid(), before) and thread_niceness() == {before}
    finally:
        end.set()
        thread.join()


def test_without_the_way_back_nothing_is_done(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(niceness, "can_restore", lambda: False)
    before = thread_niceness()
    assert not niceness.renice(os.getpid(), 19) and thread_niceness() == before


def test_a_process_that_is_gone_is_no_error():
    assert not niceness.renice(2**22 - 1, 19)
