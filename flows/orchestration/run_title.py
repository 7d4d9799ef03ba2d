"""The name and the tags of a flow run in Prefect, which are those of its run in MLflow."""

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext

from flows.home import Home
from flows.label import Label, run_title
from flows.tracking.earlier import distinguish
from flows.tracking.refusals import going_without
from pipelines.config import RunConfig
from pipelines.errors import InputError


def title_of_flow_run() -> str:
    """Return the name of the flow run that begins; Prefect asks for it."""
    parameters = _context().parameters or {}
    config, label = parameters["config"], parameters["label"]
    try:
        return distinguish(Home.from_environment(), config, label).title
    except InputError:  # MLflow cannot be read, which the run itself meets
        return run_title(config, label, None)


def tag_flow_run(config: RunConfig, label: Label) -> None:
    """Tag the flow run with the names of its flow and its config, and with what a person gave."""
    context = _context()
    run, flow = context.flow_run, context.flow
    assert run and flow
    tags = dict.fromkeys([*run.tags, "tokenmill", flow.name, config.name, *label.tags])
    with going_without("tags in Prefect"), get_client(sync_client=True) as client:
        client.update_flow_run(run.id, tags=list(tags))


def _context() -> FlowRunContext:
    context = FlowRunContext.get()
    assert context
    return context
