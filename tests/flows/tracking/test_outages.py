"""What a person reads while MLflow does not answer."""

import logging
import threading

from flows.tracking.outages import explain_outages
from flows.tracking.step_run import SENDER


def test_waiting_for_mlflow_is_printed_once(capsys):
    log = logging.getLogger("urllib3.connectionpool")

    def retry(url):
        log.warning("Retrying (%r) after connection broken by '%r': %s", "Retry(total=5)", "refused", url)

    with explain_outages("http://mlflow:5000"):
        retry("/bucket/key")
        sender = threading.Thread(target=retry, args=["/api/2.0/mlflow/runs/log-batch"], name=SENDER)
        sender.start()
        sender.join()
        assert "waiting" not in capsys.readouterr().err
        retry("/api/2.0/mlflow/runs/create")
        retry("/api/2.0/mlflow/runs/create")
    retry("/api/2.0/mlflow/runs/create")
    assert capsys.readouterr().err.count("waiting") == 1
