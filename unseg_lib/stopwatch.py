"""How much of a training's time goes to waiting for its data."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

END = object()


class Stopwatch:
    """Seconds spent `waiting()` for data and `working()` on them; `watch(items)` does both for the body of a loop.

    Somebody else's loop calls `lap` between the two, after a first `start`.
    """

    def __init__(self):
        self.waited, self.worked, self.samples, self.begun = 0.0, 0.0, 0, 0.0

    def start(self) -> None:
        self.begun = time.perf_counter()

    def lap(self, samples: int = 0) -> None:
        """The time since the last call went into work on so many samples, or, without any, into waiting."""
        spent, self.begun = time.perf_counter() - self.begun, time.perf_counter()
        if samples:
            self.worked, self.samples = self.worked + spent, self.samples + samples
        else:
            self.waited += spent

    @contextmanager
    def waiting(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    @contextmanager
    def working(self, samples: int) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.worked, self.samples = self.worked + time.perf_counter() - start, self.samples + samples

    def watch(self, batches: Iterable, size: int) -> Iterator:
        """The same batches, of `size` samples each; between two of them the loop is at work."""
        iterator = iter(batches)
        while True:
            with self.waiting():
                batch = next(iterator, END)
            if batch is END:
                return
            with self.working(size):
                yield batch

    def report(self) -> dict[str, float]:
        """Samples a second, and the share of the time that was spent waiting for them."""
        spent = max(self.waited + self.worked, 1e-9)
        return {"samples_per_second": self.samples / spent, "share_waiting": self.waited / spent}
