"""Templates keep what the user says as it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import InputError
from pipelines.templates import TEMPLATES, load_template, save_template, template_named


@pytest.mark.parametrize("name", TEMPLATES)
@given(instruction=st.text(min_size=1), input=st.text(min_size=1))
def test_instruction_and_input_stand_in_the_prompt_unchanged(name, instruction, input):
    template = TEMPLATES[name]
    before, after = template.with_input.split("{instruction}")
    assert template.prompt(instruction, input) == before + instruction + after.replace("{input}", input)
    start, end = template.without_input.split("{instruction}")
    assert template.prompt(instruction) == start + instruction + end


@pytest.mark.parametrize("name", TEMPLATES)
def test_saving_and_loading_is_the_identity(name, tmp_path):
    save_template(TEMPLATES[name], tmp_path / "template.json")
    assert load_template(tmp_path / "template.json") == TEMPLATES[name]


def test_an_unknown_template_is_named():
    with pytest.raises(InputError, match=r"alpacca.*alpaca"):
        template_named("alpacca")


def test_a_file_that_is_no_template_is_refused(tmp_path):
    (tmp_path / "template.json").write_text('{"with_input": "x"}')
    with pytest.raises(InputError, match=r"template\.json is not a template"):
        load_template(tmp_path / "template.json")
