"""The requests that the process which holds Ray reads: to start Ray, to train, and to stop."""

from __future__ import annotations

import os
import queue
import threading
from pathlib import Path
from typing import TextIO

from cluster.runtime.messages import Order, StartRay, Stop, parse_request
from cluster.runtime.session import end_processes


class Requests:
    """The requests of the process that started this one, read by a thread."""

    def __init__(self, source: TextIO, folder: Path) -> None:
        self.folder = folder
        self.stop: str | None = None
        self._others: queue.SimpleQueue[StartRay | Order] = queue.SimpleQueue()
        threading.Thread(target=self._listen, args=(source,), name="requests", daemon=True).start()

    def first(self) -> StartRay | Order:
        """Wait for the first request: to start Ray, or the order to train in one that is there already."""
        return self._others.get()

    def next_order(self) -> Order:
        """Wait for an order."""
        order = self._others.get()
        assert isinstance(order, Order)
        return order

    def _listen(self, source: TextIO) -> None:
        for line in source:
            request = parse_request(line)
            if isinstance(request, Stop):
                self.stop = request.signal
            else:
                self._others.put(request)
        # The end of the input is the end of the process that wrote it.
        end_processes(self.folder)
        os._exit(1)
