"""What differs between two configs."""

from pipelines.changes import changes, flat


def test_flat_config_has_dotted_keys_and_texts():
    config = {"name": "wiki", "pretrain": {"steps": 5, "model": {"tied": None}}, "mix": {}, "clean": ["a"]}
    assert flat(config) == {
        "name": "wiki", "pretrain.steps": "5", "pretrain.model.tied": "null", "mix": "{}", "clean": '["a"]'
    }  # fmt: skip


def test_changes_name_values_before_and_after():
    before = flat({"pretrain": {"steps": 5, "seed": 0}, "finetune": {}, "old": 1})
    after = flat({"pretrain": {"steps": 9, "seed": 0}, "finetune": {"spam": {"steps": 3}}})
    assert changes(before, after) == {
        "pretrain.steps": ("5", "9"), "finetune.spam.steps": (None, "3"), "old": ("1", None)
    }  # fmt: skip


def test_changed_source_is_named_by_its_place():
    before = flat({"sources": [{"uri": "a.txt", "keep": None}, {"uri": "b.txt"}]})
    after = flat({"sources": [{"uri": "a.txt", "keep": 2}, {"uri": "c.txt", "format": None}]})
    assert changes(before, after) == {"sources.0.keep": ("null", "2"), "sources.1.uri": ("b.txt", "c.txt")}


def test_path_that_was_stored_as_written_is_the_same_place():
    assert changes({"uri": "texts/*.txt"}, {"uri": "/home/me/texts/*.txt"}) == {}
    assert changes({"uri": "a.txt"}, {"uri": "/home/me/aa.txt"}) and changes({"uri": "/a/b"}, {"uri": "/c/a/b/d"})


def test_text_that_was_cut_off_is_compared_as_a_text():
    assert changes({"sources": '[{"uri": "a'}, {"sources": '[{"uri": "b'}) == {
        "sources": ('[{"uri": "a', '[{"uri": "b')
    }
