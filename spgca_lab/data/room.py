"""Whether pictures fit into the memory that is free, asked before the first is decoded."""

from spgca_lab.training.memory import free_memory

__all__ = ["room_for"]


def room_for(count: int, side: int) -> None:
    """Refuse pictures that memory does not hold: the system would end the process in the middle of decoding.

    Args:
        count: of pictures.
        side: of each in pixels.

    Raises:
        ValueError: with the bytes that are needed and those that are free.

    Example:
        >>> room_for(10**9, 256)  # doctest: +SKIP
        Traceback (most recent call last):
        ...
        ValueError: 1,000,000,000 pictures of 256×256 need 196.6 TB of memory, and 12.3 GB are free: ...
    """
    need, free = count * 3 * side * side, free_memory()
    if free is not None and need > free:
        raise ValueError(
            f"{count:,} pictures of {side}×{side} need {need / 1e9:,.1f} GB of memory ({need:,} bytes), and "
            f"{free / 1e9:,.1f} GB are free: give per_class and test_per_class, or a smaller image_size"
        )
