"""A signal on the way, which the loop grants between two steps."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pyro_vaes.inference.ranks import ASK, Ranks


class Interruption:
    """Turn Ctrl-C and SIGTERM into a wish that the loop grants between two steps; a second one stops at once.

    Args:
        ranks: who has to hear of it before it is granted, so that all stop after the same step.

    >>> with Interruption() as wish:
    ...     wish.signal
    """

    signal: int | None = None
    heard: int | None = None
    _now = False

    def __init__(self, ranks: Ranks | None = None):
        self.ranks = ranks

    def granted(self, step: int) -> bool:
        """Whether to stop before a step; on several ranks they ask each other now and then."""
        if self.ranks is not None and step % ASK == 0 and self.signal is None:
            self.signal = self.ranks.largest(self.heard or 0) or None
        return self.signal is not None

    def __enter__(self) -> "Interruption":
        self._before: dict[int, object] = {}
        # Python lets only the main thread handle signals; elsewhere the run is not interruptible.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._wish)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within this the first signal stops what is going on, as otherwise the second does.

        Not where there are other ranks, to whom it may not have come.
        """
        self._now = self.ranks is None
        try:
            yield
        finally:
            self._now = False

    def _wish(self, number: int, frame: FrameType | None) -> None:
        first, self.heard = self.heard is None, number
        if self.ranks is None:
            self.signal = number
        if self._now or not first:
            raise KeyboardInterrupt(number)
