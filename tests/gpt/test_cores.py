"""Cores that a process may use."""

import os

import pytest

from gpt.cores import cores, quotas

V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/cpu,cpuacct"


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/", {f"{V2}/cpu.max": "200000 100000"}, [2.0]),
        ("0::/", {f"{V2}/cpu.max": "max 100000"}, []),
        ("0::/a/b", {f"{V2}/a/cpu.max": "150000 100000", f"{V2}/a/b/cpu.max": "max 100000"}, [1.5]),
        ("0::/a", {f"{V2}/a/cpu.max": "150000 100000", f"{V2}/cpu.max": "50000 100000"}, [1.5, 0.5]),
        ("0::/../outside", {f"{V2}/cpu.max": "50000 100000"}, [0.5]),
        (
            "4:memory:/\n3:cpu,cpuacct:/docker/1",
            {f"{V1}/cpu.cfs_quota_us": "400000", f"{V1}/cpu.cfs_period_us": "100000"},
            [4.0],
        ),
        ("3:cpu,cpuacct:/", {f"{V1}/cpu.cfs_quota_us": "-1", f"{V1}/cpu.cfs_period_us": "100000"}, []),
        ("nonsense", {}, []),
    ],
)
def test_quota_is_read_from_control_groups(tmp_path, groups, files, expected):
    for name, content in {"proc/self/cgroup": groups, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    assert list(quotas(tmp_path)) == expected
    assert list(quotas(tmp_path / "nothing")) == []


def test_affinity_counts(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)
    assert cores.__wrapped__() == 1
