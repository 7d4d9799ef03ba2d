import hashlib
import json
import pickle
import random
from pathlib import Path

import pytest
import torch
from damages import DAMAGES, put

from gpt.checkpoint import Checkpoints


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"a": torch.full((3, 4), value), "b": torch.tensor(value)}


def test_checkpoint_loads_as_it_was_saved(tmp_path: Path) -> None:
    path = Checkpoints(tmp_path).save(5, tensors(1.5), {"a/moment": torch.arange(3)}, {"step": 5, "best": 1 / 3})
    assert Checkpoints(tmp_path).latest() == path
    model, optimizer, state = Checkpoints.load(path)
    assert torch.equal(model["a"], torch.full((3, 4), 1.5)) and model["b"] == 1.5
    assert torch.equal(optimizer["a/moment"], torch.arange(3))
    assert state == {"step": 5, "best": 1 / 3}


def test_newest_and_best_checkpoints_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep_last=2)
    for step in range(1, 6):
        checkpoints.save(step, tensors(step), {}, {"step": step})
    for step in (1, 3):
        checkpoints.save_best(step, tensors(step), {"step": step})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best-00000003", "step-00000004", "step-00000005"]
    assert Checkpoints.load(checkpoints.best())[0]["b"] == 3  # type: ignore[arg-type]


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_damaged_newest_checkpoint_is_skipped_and_can_be_replaced(tmp_path: Path, file: str, damage: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    older = checkpoints.save(1, tensors(1), tensors(1), {"step": 1})
    newer = checkpoints.save(2, tensors(2), tensors(2), {"step": 2})
    content = (newer / file).read_bytes()
    if damage == "gone":
        (newer / file).unlink()
    else:
        (newer / file).write_bytes(content[:-4] if damage == "cut" else content[:-4] + b"\xff" + content[-3:])
    with pytest.warns(UserWarning, match="step-00000002 is damaged"):
        assert checkpoints.latest() == older
    assert checkpoints.save(2, tensors(2), tensors(2), {"step": 2}) == newer
    assert checkpoints.latest() == newer


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_checkpoint_never_gives_other_numbers(tmp_path: Path, kind: str) -> None:
    sentences: list[str] = []
    checkpoints = Checkpoints(tmp_path, warn=sentences.append)
    older = checkpoints.save(1, tensors(1), tensors(1), {"step": 1, "best_loss": 2.5})
    newer = checkpoints.save(2, tensors(2), tensors(2), {"step": 2, "best_loss": 1.5})
    whole = Checkpoints.load(newer)
    for file in sorted(newer.iterdir()):
        content = file.read_bytes()
        for seed in range(12):
            put(file, DAMAGES[kind](content, random.Random(seed)))
            found = checkpoints.latest()
            assert found == older or str(Checkpoints.load(newer)) == str(whole)  # of a flag of JSON's layout
            assert bool(sentences) == (found == older) and all(f"{newer} is damaged; step-" in s for s in sentences)
            sentences.clear()
            put(file, content)


def test_run_does_not_go_on_without_its_best_weights(tmp_path: Path) -> None:
    sentences: list[str] = []
    checkpoints = Checkpoints(tmp_path, warn=sentences.append)
    before = checkpoints.save(1, tensors(1), {}, {"step": 1, "best_step": None})
    after = checkpoints.save(3, tensors(3), {}, {"step": 3, "best_step": 2})
    best = checkpoints.save_best(2, tensors(2), {"step": 2})
    assert checkpoints.latest() == after
    put(best / "model.safetensors", b"")
    assert checkpoints.latest() == before and checkpoints.best() is None
    checkpoints.save_best(4, tensors(4), {"step": 4})
    assert checkpoints.latest() == after, "it will find the better weights of step 4 again"
    assert [sentence.partition(" is damaged; ")[2] for sentence in sentences] == [
        "step-00000001 is used instead",
        "the work that it held is done again",
    ]


def test_checkpoint_that_names_foreign_files_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    place = checkpoints.save(1, tensors(1), {}, {"step": 1}) / "state.json"
    content = json.loads(place.read_bytes())
    content["sha256"]["../../secret"] = hashlib.sha256(b"secret").hexdigest()
    place.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="is damaged"):
        assert checkpoints.latest() is None


def test_half_written_checkpoint_is_ignored_and_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path)
    whole = checkpoints.save(1, tensors(1), {}, {"step": 1})

    def die(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", die)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(2, tensors(2), {}, {"step": 2})
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 2
    again = Checkpoints(tmp_path)
    assert again.latest() == whole
    assert again.save(3, tensors(3), {}, {"step": 3}).exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001", "step-00000003"]


class Malicious:
    def __reduce__(self) -> tuple:
        return exec, ("import gpt; gpt.was_hacked = True",)


def test_malicious_pickle_is_not_executed(tmp_path: Path) -> None:
    import gpt

    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(1, tensors(1), {}, {"step": 1})
    (path / "model.safetensors").write_bytes(pickle.dumps(Malicious()))
    with pytest.warns(UserWarning, match="damaged"):
        assert checkpoints.latest() is None
    with pytest.raises(Exception, match="header"):
        Checkpoints.load(path)
    assert not hasattr(gpt, "was_hacked")


def test_empty_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "new").latest() is None and Checkpoints(tmp_path / "new").best() is None
