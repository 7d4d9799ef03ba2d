"""Schedules: read from TOML and turned into deployments."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.label import Label
from flows.schedules.deployments import Schedule, load_schedules, make_deployments, prefect_yaml, serve, tokenmill_flows
from flows.schedules.served_run import validate_parameters
from pipelines.config import parse_config
from pipelines.errors import InputError

ROOT = Path(__file__).parents[3]
SHIPPED = ROOT / "configs" / "schedules.toml"

CONFIG = {"name": "x", "ingest": {"sources": [{"uri": "x.txt"}]}}
PARAMETERS = {name: {} if name == "housekeeping" else {"config": CONFIG} for name in tokenmill_flows()}


def schedules(tmp_path, text):
    path = tmp_path / "schedules.toml"
    path.write_text(text)
    return path


def test_shipped_schedules_allow_one_run_at_a_time():
    made = {each.name: each for each in make_deployments(load_schedules(SHIPPED), SHIPPED)}
    assert made.keys() == {"refresh", "nightly-evaluation", "housekeeping"}
    for deployment in made.values():
        assert deployment.concurrency_limit == 1
        assert deployment.concurrency_options.collision_strategy.value == "ENQUEUE", "people's runs are never cancelled"
        assert len(deployment.schedules) == 1
        assert deployment.paused is False, "a server that ended cleanly has paused them"
    assert made["refresh"].flow_name == "run"
    assert made["refresh"].parameters["config"]["name"] == "quickstart"
    assert made["refresh"].parameters["config"]["base"] == "champion"
    assert "base=champion" in made["refresh"].parameters["label"]["overrides"]
    assert made["nightly-evaluation"].flow_name == "reevaluate"
    assert made["housekeeping"].parameters["keep_days"] == 90
    assert str(made["nightly-evaluation"].schedules[0].schedule.cron) == "30 5 * * *"
    assert "FREQ=WEEKLY" in made["housekeeping"].schedules[0].schedule.rrule


@pytest.mark.parametrize("name", sorted(tokenmill_flows()))
def test_every_field_in_prefects_forms_has_a_description(name):
    (deployment,) = make_deployments(
        {"by-hand": Schedule(flow=name, config=None, parameters=PARAMETERS[name])}, SHIPPED
    )
    form = deployment._parameter_openapi_schema.model_dump()
    forms = {"": form, **form["definitions"]}
    fields = {
        f"{table}.{key}": field for table, each in forms.items() for key, field in each.get("properties", {}).items()
    }
    assert [key for key, field in fields.items() if not field.get("description")] == []
    if name not in ("housekeeping", "evaluate-new"):
        assert {
            ".config",
            ".label",
            "Label.name",
            "Label.note",
            "PretrainConfig.steps",
            "RunConfig.base",
            "LanguageCriterion.margin",
        } <= fields.keys()


def test_prefect_yaml_declares_the_same_deployments():
    committed = (ROOT / "prefect.yaml").read_text()
    made = prefect_yaml(load_schedules(SHIPPED), SHIPPED)
    version = "prefect-version:"
    assert [line for line in committed.splitlines() if not line.startswith(version)] == [
        line for line in made.splitlines() if not line.startswith(version)
    ]


def test_schedule_with_every_key_makes_a_deployment(tmp_path):
    path = schedules(
        tmp_path,
        f"""
        [often]
        flow = "run"
        config = "{ROOT / "configs" / "quickstart.toml"}"
        set = ["pretrain.steps=7"]
        parameters = {{ rebuild = true }}
        interval = "PT15M"
        timezone = "Europe/Vienna"
        collision = "enqueue"
        description = "Often."
        """,
    )
    (often,) = make_deployments(load_schedules(path), path)
    assert often.parameters["config"]["pretrain"]["steps"] == 7
    assert often.parameters["rebuild"] is True
    assert often.schedules[0].schedule.interval.total_seconds() == 900
    assert often.schedules[0].schedule.timezone == "Europe/Vienna"
    assert often.description == "Often."
    assert make_deployments({"by-hand": Schedule(flow="housekeeping")}, path)[0].schedules == []


def test_paths_start_from_the_files_in_which_they_are_written(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "x.toml").write_text('name = "x"\n[[ingest.sources]]\nuri = "x.txt"\n')
    path = schedules(tmp_path, """[x]\nflow = "ingest"\nconfig = "runs/x.toml"\nset = ["ingest.bad_words=bad.txt"]""")
    monkeypatch.chdir("/")
    ingest = make_deployments(load_schedules(path), path)[0].parameters["config"]["ingest"]
    assert ingest["sources"][0]["uri"] == f"{tmp_path}/runs/x.txt"
    assert ingest["bad_words"] == f"{tmp_path}/bad.txt"


WRONG = {
    "": "holds no schedule",
    "x = 1": "'x' stands outside",
    "[x]\n": r"\[x\] 'flow' is missing",
    "[x": "not valid TOML",
    "[X]\nflow = 'run'": "'X' cannot name a schedule",
    "[x]\nflow = 'run'\ncrom = '* * * * *'": r"\[x\] unknown key 'crom'; did you mean 'cron'",
    "[x]\nflow = 'housekeeping'\ncron = '* * * * *'\ninterval = 3": r"cron and interval are given",
    "[x]\nflow = 'housekeeping'\ncron = '61 * * * *'": r"\[x\] .*cron",
    "[x]\nflow = 'housekeeping'\nrrule = 'FREQ=SOMETIMES'": r"\[x\] .*SOMETIMES|RRule",
    "[x]\nflow = 'housekeeping'\ninterval = 0": r"\[x\] 'interval' is wrong",
    "[x]\nflow = 'housekeeping'\ninterval = 3\ntimezone = 'Europe/Wien'": r"no such time zone",
    "[x]\nflow = 'housekeeping'\ninterval = 3\ntimezone = '../../etc/passwd'": r"no such time zone",
    "[x]\nflow = 'housekeeping'\ncollision = 'wait'": r"\[x\] 'collision' is wrong",
    "[x]\nflow = 'evalute'": r"did you mean 'evaluate'",
    "[x]\nflow = 'run'": r"\[x\] run needs 'config'",
    "[x]\nflow = 'run'\nset = ['a=1']": r"no config is given",
    "[x]\nflow = 'run'\nconfig = 'nowhere.toml'": "no config file .*nowhere.toml",
    "[x]\nflow = 'housekeeping'\nparameters = { days = 3 }": r"takes no 'days'; it takes checkpoint_days",
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_schedule_gets_one_sentence(tmp_path, text):
    path = schedules(tmp_path, text)
    with pytest.raises(InputError, match=WRONG[text]) as caught:
        make_deployments(load_schedules(path), path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def tick(folder: str, seconds: float = 0) -> None:
    """A flow's function, such as Prefect wraps."""


PARAMETERS_OF_A_RUN = {
    "unknown key 'sekonds'; did you mean 'seconds'": {"folder": "x", "sekonds": 1},
    "'seconds' is wrong": {"folder": "x", "seconds": "many"},
    "'folder' is wrong": {"folder": {"$ref": {"block_document_id": "9d24bd16-9d02-4a0f-a0a7-000000000000"}}},
    "'folder' is missing": {},
}


@pytest.mark.parametrize("sentence", PARAMETERS_OF_A_RUN)
def test_parameters_of_a_run_are_checked_like_a_config(sentence):
    flow = SimpleNamespace(fn=tick)
    assert validate_parameters(flow, {"folder": "x", "seconds": "2"}, "here") == {"folder": "x", "seconds": 2.0}
    with pytest.raises(InputError, match=f"^here: {sentence}"):
        validate_parameters(flow, PARAMETERS_OF_A_RUN[sentence], "here")


def test_config_of_a_run_is_checked_like_a_file():
    flow = tokenmill_flows()["run"]
    wrong = {"config": {**CONFIG, "tokenise": {}}}
    with pytest.raises(InputError, match=r"unknown key 'config.tokenise'; did you mean 'tokenize'"):
        validate_parameters(flow, wrong, "here")
    made = validate_parameters(flow, {"config": CONFIG}, "here")
    assert made == {"config": parse_config(CONFIG, "here"), "rebuild": False, "label": Label()}
    wrong = {"config": CONFIG, "label": {"nmae": "x"}}
    with pytest.raises(InputError, match=r"unknown key 'label.nmae'; did you mean 'name'"):
        validate_parameters(flow, wrong, "here")


def test_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no file of schedules"):
        load_schedules(tmp_path / "nowhere.toml")


def test_serving_without_a_server_names_the_remedy(tmp_path, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with pytest.raises(InputError, match="tokenmill up"):
        serve(SHIPPED, tmp_path)
