"""Files that are written whole or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_UNFINISHED = ".unfinished-"  # in the names of the folders in which files are written


@contextlib.contextmanager
def atomically(path: str | os.PathLike, durable: bool = True) -> Iterator[Path]:
    """Give a place to write the file `path`, where it appears when the block ends without an error.

    A kill at any moment leaves either the old file or the new one. The place has the name of `path` and lies
    in a hidden folder beside it, which may hold other files too and is removed with what is left in it.

    Args:
        durable: wait until the content is on the disk, so that a loss of power does no harm either.

    Example:
        >>> with atomically("numbers.txt") as place:
        ...     characters = place.write_text("1 2 3")
    """
    path = Path(path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}{_UNFINISHED}") as folder:
        place = Path(folder) / path.name
        yield place
        if durable:
            with open(place, "rb") as file:
                os.fsync(file.fileno())
        os.replace(place, path)


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Write a file of which neither a kill nor a loss of power leaves a part; see `atomically`."""
    with atomically(path) as place:
        place.write_bytes(content)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left of the files that they were writing into a folder."""
    for left in folder.glob(f".*{_UNFINISHED}*"):
        shutil.rmtree(left)
