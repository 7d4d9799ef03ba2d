"""The machine's load while a run works: processor, memory, disk, network and GPUs, as MLflow measures them.

MLflow's own thread ends at the first outage and asks the server before each value. This one hands its values to the
run's queue, which survives outages.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping

from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING, MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL

FIRST, INTERVAL = 1.0, 10.0  # seconds before the first sample, and between two


def measure(log: Callable[[int, Mapping[str, float]], None], since: float) -> Callable[[], None]:
    """Start to log the machine's load; return the function that ends it.

    MLflow's variable `MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=false` turns this off.

    Args:
        log: takes the seconds since the start and the values by name.
        since: when the run started, in seconds since 1970.
    """
    if MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.is_set() and not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get():
        return lambda: None
    over = threading.Event()

    def work() -> None:
        if over.wait(FIRST):
            return  # a short step pays nothing
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)  # it tells that there is no GPU
        monitor = SystemMetricsMonitor("")  # only for its list of what this machine has
        monitor.collect_metrics()  # the first use of the processor counts from here
        pause = FIRST
        while not over.wait(pause):
            for part in monitor.monitors:
                part.clear_metrics()
            monitor.collect_metrics()
            log(int(time.time() - since), {f"system/{name}": n for name, n in monitor.aggregate_metrics().items()})
            pause = MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or INTERVAL

    threading.Thread(target=work, name="system metrics", daemon=True).start()
    return over.set
