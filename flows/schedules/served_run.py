"""Carries out a flow run that is due, in its own process: `python -m flows.schedules.served_run DEPLOYMENT ENTRYPOINT`.

Prefect would load what its database names: an entry point, pull steps, job variables. Here, the arguments name the
deployment and the flow, and the database gives nothing but the parameters, which are validated as a config is.
"""

from __future__ import annotations

import os
import sys
import threading
from inspect import Parameter, signature
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, get_type_hints
from uuid import UUID

from prefect._internal.control_listener import configure_from_env
from prefect.client.orchestration import get_client
from prefect.engine import handle_engine_signals
from prefect.flow_engine import run_flow
from prefect.states import Failed
from pydantic import ValidationError, create_model

from flows.console import say
from flows.orchestration.endings import release_liveness_locks
from flows.servers.end_with_parent import end_with
from flows.terminal import prepare_streams
from flows.tracking.outages import finish_sending
from gpt.config import Config
from pipelines.config import explain
from pipelines.errors import InputError

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun


def carry_out(flow_run_id: UUID, deployment: str, entrypoint: str) -> None:
    """Carry out a flow run, or mark it as failed if it asks for anything but our flow with valid parameters."""
    flow: Flow[..., Any] = resolve_name(entrypoint)
    with get_client(sync_client=True) as client:
        flow_run = client.read_flow_run(flow_run_id)
        try:
            _check_origin(client, flow_run, f"{flow.name}/{deployment}", entrypoint)
            parameters = validate_parameters(flow, flow_run.parameters, "the run's parameters")
        except InputError as error:
            message = f"Not executed: {error}"
            say(f"{flow_run.name} was n{message[1:]}")
            client.set_flow_run_state(flow_run_id, Failed(message=message))
            return
    flow.should_validate_parameters = False  # Prefect would load blocks of its database that parameters name
    run_flow(flow, flow_run, parameters, return_type="state")  # the log names a failure, with no call of Prefect
    finish_sending()
    release_liveness_locks()  # the server knows the end


def _check_origin(client: SyncPrefectClient, flow_run: FlowRun, name: str, entrypoint: str) -> None:
    """Check that a flow run belongs to the deployment that `tokenmill schedule` registered, unchanged."""
    deployment = client.read_deployment(flow_run.deployment_id) if flow_run.deployment_id else None
    if not deployment or f"{client.read_flow(flow_run.flow_id).name}/{deployment.name}" != name:
        raise InputError(f"it is not a run of {name}, which `tokenmill schedule` serves.")
    asked = {
        "entry point": deployment.entrypoint != entrypoint,
        "pull steps": deployment.pull_steps,
        "job variables": deployment.job_variables or flow_run.job_variables,
    }
    if others := ", ".join(what for what, is_given in asked.items() if is_given):
        raise InputError(
            f"{others} of {name} in Prefect's database are not ours; "
            "start the run without them, or restart `tokenmill schedule`."
        )


def validate_parameters(flow: Flow[..., Any], parameters: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the parameters of a flow, validated as a config is.

    Raises:
        InputError: a parameter is unknown, missing or wrong.
    """
    hints = get_type_hints(flow.fn)
    fields: dict[str, Any] = {
        name: (hints[name], ... if parameter.default is Parameter.empty else parameter.default)
        for name, parameter in signature(flow.fn).parameters.items()
    }
    model = create_model("Parameters", __base__=Config, **fields)
    try:
        return dict(model.model_validate(parameters))
    except ValidationError as error:
        raise InputError(f"{where}: {explain(error, model)}") from None


if __name__ == "__main__":
    prepare_streams()
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()  # if `tokenmill schedule` is killed
    configure_from_env()  # the connection by which the runner cancels this run
    identifier = UUID(os.environ["PREFECT__FLOW_RUN_ID"])
    with handle_engine_signals(identifier):
        carry_out(identifier, *sys.argv[1:])
