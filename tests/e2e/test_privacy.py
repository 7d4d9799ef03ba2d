"""Nobody else on the machine reads what a run leaves in a home, even if the umask opens all files."""

import os
import shutil
import stat
import subprocess

import pytest

FOLDERS = ("data", "mlruns", ".tokenmill")


def test_run_leaves_files_for_their_owner_alone(finished):
    place, _ = finished  # which ran with umask 0
    paths = [path for folder in FOLDERS for path in (place.home / folder, *(place.home / folder).rglob("*"))]
    modes = {str(path): (path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in paths}
    assert {path: mode for path, mode in modes.items() if mode not in ((True, 0o700), (False, 0o600))} == {}
    assert {"mlflow.db", "prefect.db", "manifest.json", "model.safetensors"} <= {path.name for path in paths}


def test_second_user_cannot_read_a_home(finished):
    if os.geteuid() != 0 or not shutil.which("find"):
        pytest.skip("only root can become another user, and GNU find looks for what that user may do")
    place, _ = finished
    for path, mode in ((place.home, 0o755), (place.home / "texts", 0o755), (place.home / "texts/labels.tsv", 0o644)):
        path.chmod(mode)  # the folders above the home are closed too, so the search starts inside
    home = os.open(place.home, os.O_RDONLY)

    def usable(*folders: str) -> list[str]:
        search = ["find", *folders, "(", "-readable", "-o", "-writable", "-o", "-executable", ")"]
        nobody = {"user": 65534, "group": 65534, "extra_groups": []}
        done = subprocess.run(search, **nobody, preexec_fn=lambda: os.fchdir(home), capture_output=True, text=True)
        return done.stdout.splitlines()

    try:
        assert "texts/labels.tsv" in usable("texts"), "the person's own files have the modes that they were given"
        assert usable(*FOLDERS) == []
    finally:
        os.close(home)
