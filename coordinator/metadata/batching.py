"""A thread that takes everything that waits and does it at once: the heart of group commit."""

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from copy import copy
from typing import Generic, TypeVar

from common.errors import Unavailable

Q = TypeVar("Q")
A = TypeVar("A")

MAX_BATCH = 512


class BatchThread(Generic[Q, A]):
    """Answers questions in batches, so that many share one transaction or one query.

    `work` gets what has gathered while the batch before was done, and returns an answer or an
    exception for each; what it raises, all of the batch get. `ended` is called at last.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[list[Q]], Sequence[A | BaseException]],
        ended: Callable[[], object],
    ) -> None:
        self._work, self._ended = work, ended
        self._queue: queue.SimpleQueue[tuple[Q, asyncio.Future[A]] | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def ask(self, question: Q) -> "asyncio.Future[A]":
        """The answer, later. Questions are taken in order."""
        future: asyncio.Future[A] = self._loop.create_future()
        if self._closed:
            future.set_exception(Unavailable("the metadata database is closed"))
        else:
            self._queue.put((question, future))
        return future

    async def close(self) -> None:
        """Answer what waits, then end the thread."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        try:
            while (first := self._queue.get()) is not None:
                batch, last = self._gather(first)
                self._answer(batch)
                if last:
                    return
        finally:
            self._ended()

    def _gather(
        self, first: tuple[Q, "asyncio.Future[A]"]
    ) -> tuple[list[tuple[Q, "asyncio.Future[A]"]], bool]:
        batch = [first]
        while len(batch) < MAX_BATCH:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
            if item is None:
                return batch, True
            batch.append(item)
        return batch, False

    def _answer(self, batch: list[tuple[Q, "asyncio.Future[A]"]]) -> None:
        answers: Sequence[A | BaseException]
        try:
            answers = self._work([question for question, _ in batch])
        except BaseException as error:
            answers = [own_copy(error) for _ in batch]
        futures = [future for _, future in batch]
        self._loop.call_soon_threadsafe(_resolve, futures, answers)


def own_copy(error: BaseException) -> BaseException:
    """For one of several waiters: raised in all of them, one instance would gather the traceback
    of each, and keep alive what their frames hold."""
    twin = copy(error)
    twin.__cause__ = error.__cause__
    return twin


def _resolve(futures: Sequence["asyncio.Future[A]"], answers: Sequence[A | BaseException]) -> None:
    for future, answer in zip(futures, answers, strict=True):
        if future.done():
            continue  # nobody waits any more
        if isinstance(answer, BaseException):
            future.set_exception(answer)
        else:
            future.set_result(answer)
