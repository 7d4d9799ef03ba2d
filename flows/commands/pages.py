"""Pages that commands write to a file that the user names."""

from pathlib import Path

from pipelines.errors import InputError
from pipelines.store.files import write_synced


def write_page(path: Path, page: str) -> None:
    """Write a page.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        write_synced(path, page.encode())
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}); name a file in a folder that is there."
        ) from None
