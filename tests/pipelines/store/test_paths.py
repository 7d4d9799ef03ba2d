"""Names that others wrote stay in their folder, whatever is in them."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.errors import InputError
from pipelines.store.paths import inside, stays_inside

PIECES = st.sampled_from(["..", ".", "/", "\\", "a", "link", "", " ", "\0", "C:", "．．", "／", "‥", "…", "\u200d"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a link that leads out, one that leads to itself, and one that stays."""
    folder = tmp_path_factory.mktemp("outside") / "folder"
    (folder / "a").mkdir(parents=True)
    (folder / "link").symlink_to(folder.parent)
    (folder / "loop").symlink_to("loop")
    (folder / "near").symlink_to("a")
    return folder


@given(st.one_of(st.text(), st.lists(PIECES | st.text(max_size=3)).map("".join), st.lists(PIECES).map("/".join)))
@example("../../../../victim.json")
@example("link/../../x")
def test_no_name_leaves_its_folder(folder: Path, name: str) -> None:
    try:
        path = inside(folder, name)
    except InputError:
        return
    assert path.resolve().is_relative_to(folder.resolve())
    assert not name.startswith("/") and ".." not in path.relative_to(folder).parts


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "/etc/passwd", "a/../b", "a//b", "a/", "./a", "a\\b", "C:x", "c:\\x", "a\0b", "a\nb", "\x9b"),
        *("．．/x", "a／..", "‥/x", "…/x", "℀", "Ｃ：/x", ".. /x", "... ", "..\u200c", "a\u202eb", "\ud800"),
        *("a" * 201, "a/" * 501 + "b", "link/x", "link"),
    ],
)
def test_name_that_could_leave_its_folder_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(InputError, match="names no file in"):
        inside(folder, name)


@pytest.mark.parametrize(
    "name", ["a", "a/b.parquet", "documents/part-00000.parquet", ".hidden", "ä.txt", "a b", "near/x"]
)
def test_plain_name_is_joined_to_its_folder(folder: Path, name: str) -> None:
    assert stays_inside(name)
    assert inside(folder, name) == folder / name
