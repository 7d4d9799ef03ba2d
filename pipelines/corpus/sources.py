"""Sources of text: the URI in a config becomes a list of files that can be opened.

A URI is a file, a folder, a glob, `package://NAME/path` or anything that fsspec reaches (`https://`, `s3://`, `gs://`,
`hf://`). `package://` names a file or a glob inside an installed package: a distribution or a module of the standard
library, which is never imported. Relative paths start from the folder of the config's file (see `places`).

A file enters a fingerprint by its name relative to its source and by its content. So the same files read from
elsewhere are the same data.
"""

import hashlib
import importlib.metadata
import importlib.util
import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, BinaryIO, cast
from urllib.parse import unquote

import fsspec
from fsspec.registry import known_implementations
from fsspec.utils import glob_translate
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from pipelines.addresses import has_secret, without_secrets
from pipelines.corpus.folders import OWN, Skipped, is_own_address, own_folder, walk
from pipelines.corpus.places import FILE_ADDRESS, GLOB, Place, is_local, label_of
from pipelines.corpus.readers.records import ReadOptions, Stream
from pipelines.errors import InputError
from pipelines.store.files import state_of
from pipelines.store.manifest import SourceFile

BUFFER = 1 << 18  # bytes per read
SPOOLED = 64 << 20  # bytes of a fetched file that stay in memory
REFUSED = (
    "carries a password or a token, which manifests and MLflow would keep; give it in the environment, as "
    "AWS_SECRET_ACCESS_KEY or FSSPEC_HTTPS (see docs/surviving.md)"
)


def refuse_secrets(uri: str) -> str:
    """Return a config's URI if it carries no password or token: manifests, MLflow and Prefect store configs.

    Raises:
        PydanticCustomError: it carries one.
    """
    if has_secret(uri):
        raise PydanticCustomError("secret", f"it {REFUSED}")
    return uri


def refuse_nothing(uri: str) -> str:
    """Return a config's URI if it names something.

    Raises:
        ValueError: it is empty.
    """
    if not FILE_ADDRESS.sub("", uri).strip():
        raise ValueError("it should be a file, a folder, a glob, package://NAME/path or an address")
    return uri


Address = Annotated[str, AfterValidator(refuse_nothing), AfterValidator(refuse_secrets)]
"""An address of a config."""
Uri = Annotated[Place, AfterValidator(refuse_nothing), AfterValidator(refuse_secrets)]
"""An address, file, folder or glob of a config."""


class FileSource(ReadOptions):
    """Files of one kind, and how to read them."""

    uri: Uri = Field(json_schema_extra={"fingerprint": False})
    """A file, folder, glob, package://NAME/path or address."""
    name: str | None = None
    """Name of the source; by default the last part of its URI."""

    @cached_property
    def title(self) -> str:
        """The name of the source."""
        return self.name or label_of(self.uri)


@dataclass(frozen=True)
class File:
    """One file of a source, as it was when the source was listed.

    uri: a local path, or a URI for fsspec.
    name: relative to the source, with forward slashes.
    state: a word that changes with the content: the times of change and the inode of a local file, or a remote file's
        tag. Programs can put back the time of the content's change, but not that of the inode's.
    """

    uri: str
    name: str
    bytes: int
    state: str

    def open(self) -> BinaryIO:
        """Open the file for reading bytes, seekable.

        Raises:
            InputError: the file is gone, may not be read, or changed since it was listed.
            ConnectionError: it is remote and cannot be reached; reading raises this too.
        """
        try:
            file = _open_remote(self.uri) if "://" in self.uri else open(self.uri, "rb", BUFFER, opener=_open_at_once)  # noqa: SIM115
        except ConnectionError:
            raise
        except OSError as error:
            raise InputError(f"{self.uri} cannot be opened: {error.strerror or error}.") from None
        self.check_unchanged()
        return file

    def check_unchanged(self) -> None:
        """Compare the file with what was listed.

        Raises:
            InputError: the file was written to since it was listed.
        """
        try:
            now = _remote(self.uri, self.name) if "://" in self.uri else _local(Path(self.uri), self.name)
        except OSError as error:
            raise InputError(f"{self.uri} cannot be read: {error.strerror or error}.") from None
        if (now.bytes, now.state) != (self.bytes, self.state):
            raise InputError(f"{self.uri} changed while it was read; run again when nothing writes to it.")


Listing = dict[FileSource, tuple[list[File], list[Skipped]]]


def list_sources(sources: Iterable[FileSource]) -> Listing:
    """List the files of sources: those that are read, and those that are skipped."""
    return {source: list_files(source.uri) for source in sources}


def describe_sources(sources: Iterable[FileSource], listing: Listing) -> tuple[SourceFile, ...]:
    """Return name, size and digest of the listed files, for a fingerprint, in the order of the sources."""
    return tuple(file for source in sources for file in describe(listing[source][0], source.title))


def list_files(uri: str) -> tuple[list[File], list[Skipped]]:
    """Return the files that a URI names, sorted by name, and those that will not be read.

    Files and folders whose name starts with a dot are ignored in a folder or a glob. Links to folders are not
    followed, and links to files outside the folder are skipped. So is what tokenmill published.

    Raises:
        InputError: the URI names nothing, or what it names cannot be reached.
    """
    try:
        if uri.startswith("package://"):
            found: Iterator[File | Skipped] = _in_package(uri)
        elif not is_local(uri):
            found = _remote_files(uri)
        else:
            found = _local_files(path_of(uri), uri)
        listed = sorted(found, key=lambda file: file.name)
    except InputError:
        raise
    except ImportError:
        raise InputError(f"{uri} needs a package; install it with: pip install {_package_for(uri)}") from None
    except Exception as error:  # each file system has its own
        raise InputError(f"{uri} cannot be listed: {error}.") from None
    files = [file for file in listed if isinstance(file, File)]
    skipped = [file for file in listed if isinstance(file, Skipped)]
    if not files:
        why = f" ({skipped[0].name}: {skipped[0].reason})" if skipped else ""
        raise InputError(f"{uri} names no file{why}; check the path in the config.")
    return files, skipped


def describe(files: Sequence[File], prefix: str) -> tuple[SourceFile, ...]:
    """Return size and SHA-256 of files, for a fingerprint. Unchanged files are read once per process."""
    with ThreadPoolExecutor(4) as pool:  # hashing and reading both release the interpreter
        digests = pool.map(file_digest, files)
        return tuple(
            SourceFile(name=f"{prefix}/{file.name}", bytes=file.bytes, sha256=digest)
            for file, digest in zip(files, digests, strict=True)
        )


def file_digest(file: File) -> str:
    """Return the SHA-256 of a file's content, in hex. A file with a state is read once per process."""
    return _remembered_digest(file) if file.state else _digest(file)


def _digest(file: File) -> str:
    digest, buffer = hashlib.sha256(), memoryview(bytearray(1 << 18))
    with file.open() as stream:
        while n_bytes := stream.readinto(buffer):  # type: ignore[attr-defined]  # of every binary file
            digest.update(buffer[:n_bytes])
            report_hashed(n_bytes)
    file.check_unchanged()
    return digest.hexdigest()


_remembered_digest = lru_cache(maxsize=200_000)(_digest)


_watchers: list[Callable[[int], None]] = []


@contextmanager
def hashing_watched(watch: Callable[[int], None]) -> Iterator[None]:
    """Call a function with the number of bytes whenever some of a source were hashed."""
    _watchers.append(watch)
    try:
        yield
    finally:
        _watchers.remove(watch)


def report_hashed(n_bytes: int) -> None:
    """Tell those who watch that some bytes of a source were hashed."""
    for watch in _watchers:
        watch(n_bytes)


def _local(path: Path, name: str) -> File:
    status = path.stat()
    return File(str(path), name, status.st_size, f"{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_ino}")


def path_of(uri: str) -> Path:
    """Return the path that a local URI names: `~` is the home folder, and `file:` addresses are percent-encoded."""
    written = FILE_ADDRESS.sub("", uri)
    if written != uri and not os.path.lexists(written):
        written = unquote(written)
    return Path(written).expanduser()


def _local_files(path: Path, uri: str) -> Iterator[File | Skipped]:
    # Names with the letters of a glob come first: `a[1].txt` may exist, and so may `a[1]/` in `a[1]/*.txt`.
    glob = bool(GLOB & set(str(path))) and not path.exists()
    root = next(each for each in path.parents if each.is_dir() or not GLOB & set(str(each))) if glob else path
    if own := own_folder(root.resolve()):
        raise InputError(f"{uri} is in {own}, which is {OWN} and never a source; name the texts themselves.")
    pattern = path.relative_to(root).as_posix()
    if path.is_file():
        yield _local(path, path.name)
    elif root.is_dir():
        for found in walk(root, lambda name: not glob or matches(name, pattern)):
            if not isinstance(found, Skipped):
                yield _local(*found)
            elif not glob or "/" in pattern or matches(found.name, pattern):
                yield found
    elif not glob:
        raise InputError(f"{uri} does not exist; check the path in the config.")


def matches(name: str, pattern: str) -> bool:
    """Return whether a relative path fits a glob. `*` stays within a folder, `**` crosses any number of them."""
    patterns = {pattern, pattern.removesuffix("/**")}  # `**` crosses no folder too, also at the end
    return any(re.match(glob_translate(each), name) for each in patterns)


def _fixed_folder(pattern: str) -> str:
    return re.split(r"[*?[]", pattern)[0].rpartition("/")[0]


def _in_package(uri: str) -> Iterator[File | Skipped]:
    package, _, path = uri.removeprefix("package://").partition("/")
    if not package or not path or ".." in path.split("/"):
        raise InputError(f"{uri} should read package://NAME/path, with a path that stays inside the package.")
    root, names = _package_files(package, uri)
    if path in names:
        yield _local(root / path, PurePosixPath(path).name)
        return
    pattern = path if GLOB & set(path) else f"{path.rstrip('/')}/**"
    parent = _fixed_folder(pattern)
    found = [name for name in names if matches(name, pattern)]
    if not found:
        raise InputError(f"The installed package {package!r} holds no {path!r}; check the path in {uri}.")
    for name in found:
        yield _local(root / name, name[len(parent) + 1 :] if parent else name)


def _package_files(package: str, uri: str) -> tuple[Path, list[str]]:
    """Return a package's folder and its files below: those that a distribution lists, else all in a module's folder."""
    try:
        distribution = importlib.metadata.distribution(package)
        root = Path(str(distribution.locate_file(""))).resolve()
        listed = [str(name) for name in distribution.files or [] if ".." not in name.parts and not name.is_absolute()]
        return root, [name for name in listed if (root / name).is_file() and "__pycache__" not in name]
    except importlib.metadata.PackageNotFoundError:
        pass
    spec = importlib.util.find_spec(package) if package.isidentifier() else None  # finds, does not import
    if not spec or not spec.submodule_search_locations:
        raise InputError(f"The package {package!r} of {uri} is not installed; install it with: pip install {package}")
    root = Path(next(iter(spec.submodule_search_locations))).resolve()
    paths = (path for path in root.rglob("*") if path.is_file() and path.resolve().is_relative_to(root))
    return root, [path.relative_to(root).as_posix() for path in paths if "__pycache__" not in path.parts]


def _open_at_once(path: str, flags: int) -> int:
    """Open a file that may have become a named pipe since it was listed, which would wait for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def _open_remote(uri: str) -> BinaryIO:
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
        if uri.startswith(("http://", "https://")):  # many web servers give no part of a file, so it is fetched whole
            whole = tempfile.SpooledTemporaryFile(SPOOLED)  # noqa: SIM115
            with filesystem.open(path, block_size=0) as stream:
                shutil.copyfileobj(stream, whole, BUFFER)
            whole.seek(0)
            return cast(BinaryIO, whole)
        return cast(BinaryIO, io.BufferedReader(_Remote(filesystem.open(path), uri), BUFFER))
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        raise _not_reached(uri, error) from None  # whose text may show a secret


class _Remote(Stream):
    """A remote file. A broken connection is a ConnectionError, so that it is not taken for a broken file."""

    def __init__(self, file: Any, uri: str) -> None:
        super().__init__(file.read)
        self._file, self._uri = file, uri

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def readinto(self, buffer: Any) -> int:
        try:
            return super().readinto(buffer)
        except Exception as error:
            raise _not_reached(self._uri, error) from None

    def close(self) -> None:
        self._file.close()
        super().close()


def _not_reached(uri: str, error: Exception) -> ConnectionError:
    """Return the one error that replaces the errors of each file system."""
    why = " ".join(str(error).split()) or type(error).__name__
    return ConnectionError(without_secrets(f"{uri} could not be read ({why})"))


def _package_for(uri: str) -> str:
    """Return the package that fsspec needs for a protocol, by the module that it would import."""
    protocol = uri.partition("://")[0]
    module = str(known_implementations.get(protocol, {}).get("class", protocol)).partition(".")[0]
    return f"'fsspec[{protocol}]'" if module == "fsspec" else module


def _remote(uri: str, name: str) -> File:
    filesystem, path = fsspec.core.url_to_fs(uri)
    filesystem.invalidate_cache()  # fsspec caches listings, and this asks what is there now
    return _remote_file(uri, name, filesystem.info(path))


def _remote_file(uri: str, name: str, info: Mapping[str, Any]) -> File:
    return File(uri, name, int(info.get("size") or 0), state_of(info))


def _remote_files(uri: str) -> Iterator[File | Skipped]:
    filesystem, path = fsspec.core.url_to_fs(uri)
    if GLOB & set(path) and not uri.startswith(("http://", "https://")) and not filesystem.isfile(path):
        root, found = _fixed_folder(path), filesystem.glob(path, detail=True)
    elif not filesystem.exists(path):
        raise InputError(f"{uri} does not exist, or may not be read; check the address and the credentials.")
    elif filesystem.isfile(path):
        root, found = path.rpartition("/")[0], {path: filesystem.info(path)}
    else:
        root, found = path.rstrip("/"), filesystem.find(path, detail=True)
    for each, info in found.items():
        name = each[len(root) :].lstrip("/")
        name = name.partition("?")[0] if uri.startswith(("http://", "https://")) else name
        if not each.startswith(root) or {"..", "."} & set(re.split(r"[/\\]", name)):
            yield Skipped(each, "its name leads out of the folder")
        elif is_own_address(each):
            yield Skipped(name, OWN, is_own=True)
        elif info.get("type") == "file" and not any(part.startswith(".") for part in name.split("/")):
            yield _remote_file(filesystem.unstrip_protocol(each), name, info)
