"""Addresses of some of the files that a URI names."""

import pytest

from pipelines.corpus.sources import list_files
from pipelines.starter.addresses import absolute, addresses, extension, folder_of

NAMES = ["a.md", "b[1].csv", "deep/c.md", "deep/d.csv", "x/y/1.", "x/y/2.", "z.txt.gz"]


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "odd [name] * é"
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return str(folder), list_files(str(folder))[0]


@pytest.mark.parametrize(
    "wanted",
    [NAMES, ["a.md", "deep/c.md"], ["b[1].csv"], ["deep/c.md", "deep/d.csv"], ["x/y/1.", "x/y/2."], ["z.txt.gz"]],
)
def test_addresses_name_these_files_and_no_others(files, wanted):
    uri, every = files
    some = [file for file in every if file.name in wanted]
    found = [file.uri for address in addresses(some, every, uri) for file in list_files(address)[0]]
    assert sorted(found) == sorted(file.uri for file in some)


def test_extension_has_that_of_the_compression():
    names = ("a.csv", "a.CSV.gz", "archive.tar.xz", "README", "1234.M5P6.host:2,S", ".hidden")
    assert [extension(name) for name in names] == ["csv", "CSV.gz", "tar.xz", "", "", ""]


def test_path_becomes_absolute(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    assert absolute(".") == str(tmp_path / "a")
    assert absolute("../a/*.md") == f"{tmp_path}/a/../a/*.md"
    assert absolute("s3://bucket/a") == "s3://bucket/a"
    assert absolute("file:///a%20b/c.md") == "/a b/c.md"


def test_folder_of_a_glob_is_the_one_it_searches(tmp_path):
    assert folder_of(str(tmp_path)) == tmp_path
    assert folder_of(f"{tmp_path}/*/*.md") == tmp_path
    assert folder_of("hf://datasets/a/b") is None
