"""Holding the linear algebra library to one thread."""

from __future__ import annotations

import threading

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from dovetail.engine.methods.blas import one_thread


def threads() -> int:
    """Give the library's number of threads."""
    return int(max(each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"))


def test_the_last_to_leave_restores_what_was() -> None:
    """Callers overlap in any order; while one is inside there is one thread, and then as many as before."""
    with threadpool_limits(2, user_api="blas"):
        if threads() != 2:
            pytest.skip("the library has one thread here")
        entered, leave = threading.Event(), threading.Event()

        def other() -> None:
            with one_thread():
                entered.set()
                leave.wait(10)

        with one_thread():
            thread = threading.Thread(target=other)
            thread.start()
            assert entered.wait(10)
            assert 1 == threads()
        assert 1 == threads()
        leave.set()
        thread.join()
        assert 2 == threads()
        with pytest.raises(ZeroDivisionError), one_thread():
            raise ZeroDivisionError
        assert 2 == threads()
