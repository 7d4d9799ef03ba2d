from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipelines.corpus.documents import SplitConfig, document_id, normalise, split_of
from pipelines.corpus.ingest.many import name_texts, normalise_all


@given(st.lists(st.text(max_size=9) | st.sampled_from([" a", "\r\n", "\x1f", "e\u0301"]), max_size=9))
def test_many_texts_are_normalised_like_each_alone(texts: list[str]) -> None:
    assert normalise_all(texts) == [normalise(text).encode() for text in texts]


@given(st.lists(st.text(), max_size=20), st.floats(0, 1), st.floats(0, 1))
def test_many_texts_get_ids_and_splits_like_each_alone(texts: list[str], validation: float, test: float) -> None:
    shares = SplitConfig(validation=validation, test=test * (1 - validation))
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    doc_ids, splits = name_texts([text.encode() for text in texts], shares)
    assert doc_ids.to_pylist() == [document_id(text) for text in texts]
    assert splits.to_pylist() == [split_of(document_id(text), shares) for text in texts]
