import numpy as np

from gpt.batch import IGNORE, fill_rows, pad


def test_pad_fills_rows_on_the_right_and_counts_real_tokens() -> None:
    batch = pad([[5, 6, 7], [8]], [[6, 7, 9], [IGNORE]])
    assert batch.inputs.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch.targets.tolist() == [[6, 7, 9], [IGNORE, IGNORE, IGNORE]]
    assert batch.lengths is not None and batch.lengths.tolist() == [3, 1]


def test_pad_accepts_one_label_per_sequence() -> None:
    assert pad([[5], [6, 7]], [1, 0]).targets.tolist() == [1, 0]


def test_fill_rows_accepts_lists_and_arrays() -> None:
    rows = fill_rows([[1], np.array([2, 3], dtype=np.uint16), []], fill=-1, width=3)
    assert rows.tolist() == [[1, -1, -1], [2, 3, -1], [-1, -1, -1]]
