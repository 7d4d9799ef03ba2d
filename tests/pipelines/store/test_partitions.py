"""A partition whose mark or files are damaged is done again."""

import random
from pathlib import Path

import pytest
from damages import DAMAGES, put

from pipelines.store.partitions import DONE, mark_done, read_done

VALUE = [["shard", 12, 0.5], {"documents": 7}]


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("name", [DONE, "part.parquet"])
def test_damage_undoes_a_partition(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / "part.parquet").write_bytes(bytes(range(256)))
    mark_done(tmp_path, VALUE)
    assert read_done(tmp_path) == VALUE
    content = (tmp_path / name).read_bytes()
    for seed in range(20):
        damaged = DAMAGES[kind](content, random.Random(seed))
        if damaged != content:
            put(tmp_path / name, damaged)
            assert read_done(tmp_path) in ((None, VALUE) if name == DONE else (None,))


def test_partition_without_a_mark_is_not_done(tmp_path: Path) -> None:
    assert read_done(tmp_path) is None and read_done(tmp_path / "nothing") is None
