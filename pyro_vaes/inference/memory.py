"""Work in chunks that are halved when memory runs out."""

import warnings
from collections.abc import Callable
from typing import TypeVar

import torch

from pyro_vaes.errors import FaultWarning, short

Part = TypeVar("Part")

# What torch says on a CPU, where it has no error of its own for it.
_WORDS = ("can't allocate memory", "not enough memory", "out of memory", "Cannot allocate memory")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory has run out, be it torch's, Python's or numpy's, on any device.

    >>> out_of_memory(MemoryError()), out_of_memory(RuntimeError("no"))
    (True, False)
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


class Chunk:
    """How many data, draws or chains are worked on at a time; half as many from where memory has run out.

    Draws that are made again are other draws of the same distribution: whether memory runs out depends on shapes, and
    on no value that was drawn. So an estimate stays what it is, only not number for number what it would have been.

    Args:
        name: what the caller calls the number. size: at the start, at least 1.

    >>> chunk = Chunk("chunk", 4)
    >>> chunk.over(10, lambda start, count: (start, count))
    [(0, 4), (4, 4), (8, 2)]
    """

    def __init__(self, name: str, size: int):
        self.name, self.size, self._said = name, size, False

    @classmethod
    def of(cls, name: str, size: "int | Chunk") -> "Chunk":
        return size if isinstance(size, Chunk) else cls(name, size)

    def over(self, total: int, work: Callable[[int, int], Part]) -> list[Part]:
        """Call ``work(start, count)`` for one chunk after another of ``total``, and give what each came to.

        Raises:
            MemoryError: if there is not enough for one at a time.
        """
        parts: list[Part] = []
        done = 0
        while done < total:
            count, part = self.once(total - done, lambda count, start=done: work(start, count))  # type: ignore[misc]
            parts.append(part)
            done += count
        return parts

    def once(self, most: int, work: Callable[[int], Part]) -> tuple[int, Part]:
        """Call ``work(count)`` for one chunk of at most ``most``, and give the count for which it went well."""
        while True:
            count = min(self.size, most)
            try:
                return count, work(count)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                why = short(error) or type(error).__name__
            # Out here the failed work is gone; inside of the handler its traceback would keep all of its tensors.
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
            if count == 1:
                raise MemoryError(f"not enough for {self.name} 1 ({why})")
            self.size = count // 2
            if not self._said:
                self._said = True
                message = f"out of memory with {self.name} {count}: going on with {self.size}, and less if need be"
                warnings.warn(message, FaultWarning, stacklevel=4)
