"""Tracing quiets the exporter and leaves the rest of the process as it was."""

from __future__ import annotations

import logging
import threading
import time
import warnings

from bagel_export.onnx.tracing import _quiet


def state() -> tuple[list, int]:
    return list(warnings.filters), logging.getLogger("onnxscript").level


def test_threads_that_trace_at_once_leave_filters_and_log_levels_as_they_were():
    before = state()

    def trace(first: float) -> None:
        time.sleep(first)
        with _quiet():
            time.sleep(0.1)

    threads = [threading.Thread(target=trace, args=(0.03 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert state() == before


def test_what_others_print_while_a_graph_is_traced_is_printed(capsys):
    with _quiet():
        print("from another thread")
    assert capsys.readouterr().out == "from another thread\n"
