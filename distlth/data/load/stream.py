"""A thread that prepares batches ahead of their consumer; an error in it always reaches the consumer."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

Item = TypeVar("Item")

_POLL_S = 0.2


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error


class _End:
    pass


class Stream(Iterator[Item], Generic[Item]):
    """Iterates over `produce()`, which runs in a thread, up to `ahead` items in advance.

    Each item goes through `receive` in the consumer's thread. An exception in the thread is raised here, at
    its place in the sequence. `close` ends the thread and waits for it, as does the end of a `with` block;
    when the last reference is lost, the thread ends too.
    """

    def __init__(
        self, produce: Callable[[], Iterator[Item]], ahead: int, receive: Callable[[Item], Item] | None = None
    ) -> None:
        self._items: queue.Queue[Item | _Failure | _End] = queue.Queue(max(1, ahead))
        self._stop = threading.Event()
        self._finished = False
        self._receive = receive
        # The thread must not hold this object, or an abandoned iterator would live for ever.
        self._thread = threading.Thread(
            target=_run, args=(produce, self._items, self._stop), name="distlth-batches", daemon=True
        )
        self._thread.start()
        weakref.finalize(self, self._stop.set)

    def __next__(self) -> Item:
        if self._finished:
            raise StopIteration
        item = self._take()
        if not isinstance(item, (_Failure, _End)):
            return self._receive(item) if self._receive else item
        self.close()
        if isinstance(item, _Failure):
            raise item.error
        raise StopIteration

    def _take(self) -> Item | _Failure | _End:
        while True:
            try:
                return self._items.get(timeout=_POLL_S)
            except queue.Empty:
                if not self._thread.is_alive() and self._items.empty():
                    return _Failure(RuntimeError("the thread that prepares batches has died"))

    def close(self) -> None:
        """End the thread and wait for it; later items are lost. May be called again."""
        self._finished = True
        self._stop.set()
        self._thread.join()

    def __enter__(self) -> Stream[Item]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _run(
    produce: Callable[[], Iterator[Item]],
    items: queue.Queue[Item | _Failure | _End],
    stop: threading.Event,
) -> None:
    last: _Failure | _End = _End()
    try:
        produced = produce()
        try:
            for item in produced:
                if not _put(item, items, stop):
                    return
        finally:
            getattr(produced, "close", lambda: None)()
    except BaseException as error:  # whatever it is, it must reach the consumer
        last = _Failure(error)
    _put(last, items, stop)


def _put(
    item: Item | _Failure | _End, items: queue.Queue[Item | _Failure | _End], stop: threading.Event
) -> bool:
    """Queue the item; return False when the consumer has closed the stream."""
    while not stop.is_set():
        try:
            items.put(item, timeout=_POLL_S)
            return True
        except queue.Full:
            continue
    return False
