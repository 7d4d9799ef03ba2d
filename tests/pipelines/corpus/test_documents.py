from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipelines.corpus.documents import SplitConfig, document_id, normalise, split_of


@given(st.text(max_size=50))
def test_normalising_is_idempotent(text: str) -> None:
    try:
        once = normalise(text)
    except UnicodeEncodeError:
        return
    assert normalise(once) == once


@given(st.lists(st.text(min_size=1), min_size=1), st.floats(0, 0.4), st.floats(0, 0.4), st.floats(0, 0.1))
def test_holding_out_more_moves_no_held_out_document(texts: list[str], v: float, t: float, more: float) -> None:
    for text in texts:
        doc_id = document_id(text.encode("utf-8", "replace").decode())
        before = split_of(doc_id, SplitConfig(validation=v, test=t))
        after = split_of(doc_id, SplitConfig(validation=v + more, test=t + more))
        assert before in ("train", after)


def test_held_out_shares_match_the_config() -> None:
    shares = SplitConfig(validation=0.2, test=0.1)
    splits = [split_of(document_id(str(i)), shares) for i in range(5000)]
    assert abs(splits.count("validation") / 5000 - 0.2) < 0.02
    assert abs(splits.count("test") / 5000 - 0.1) < 0.02
