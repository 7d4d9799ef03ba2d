"""Half of the validation items are kept out, always the same ones, and those with one opening together."""

from types import SimpleNamespace

from pipelines.corpus.documents import document_id
from pipelines.corpus.examples import Example
from pipelines.corpus.kept_out import chose_on_all, divide, kept_out


def test_about_half_is_kept_out_whatever_else_there_is():
    ids = [document_id(f"text {i}") for i in range(2000)]
    side = dict(zip(ids, kept_out(ids), strict=True))
    assert 900 < sum(side.values()) < 1100
    assert all(kept_out([each])[0] == side[each] for each in ids[:50])
    assert not len(kept_out([]))


def test_examples_with_one_opening_are_on_one_side():
    for number in range(50):
        opening = f"What is {number}?"
        alone = Example("a", "s", "validation", opening, label="x")
        conversation = Example("b", "s", "validation", "And then?", response="More.", history=(opening, "A number."))
        assert sorted(map(len, divide([alone, conversation]))) == [0, 2]


def test_trainings_of_earlier_versions_chose_on_all():
    def trained(step, version):
        return SimpleNamespace(manifest=SimpleNamespace(step=step, step_version=version))

    assert chose_on_all(trained("pretrain", 1)) and not chose_on_all(trained("pretrain", 2))
    assert not chose_on_all(trained("import", 1)), "an open model chose on none of it"
