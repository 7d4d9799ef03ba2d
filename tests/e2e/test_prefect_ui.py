"""Prefect's pages in a real browser: what a run has done, and why a run has failed.

Needs Chromium; Debian's package works.
"""

import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from browser import CHROMIUM, MISSING, OPTIONS, TIMEOUT

from flows.servers.stack import Stack

playwright = pytest.importorskip("playwright.sync_api", reason="the page tests need `pip install playwright`")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason=MISSING)]


def test_pages_show_what_a_run_did_and_why_another_failed(place: Any, free_port: Callable[[], int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # so that no MLflow starts
        stack = Stack(place.home, prefect_port=free_port())
        stack.up()
    try:
        place.tokenmill("sample", str(place.config))
        (place.home / "more").mkdir()
        (place.home / "more" / "new.txt").write_bytes(bytes(range(256)) * 20)
        broken = place.home / "broken.toml"
        config = place.config.read_text().replace('name = "tiny"', 'name = "broken"')
        broken.write_text(config.replace("texts/*.txt", "more/new.txt"))
        failed = place.tokenmill("sample", str(broken), "--set", "sample.stride=32", check=False)
        assert failed.returncode == 2 and len(failed.stderr.splitlines()) == 1, failed.stderr
        sentence = failed.stderr.strip().removeprefix("tokenmill: ")
        (link,) = stack.links()
        with playwright.sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
            page = browser.new_page(viewport={"width": 1500, "height": 1000})
            page.set_default_timeout(TIMEOUT)
            page.goto(link)
            address = link.partition("/?")[0]
            check_good_run(page, address)
            check_failed_run(page, address, sentence)
            browser.close()
        for lock in (place.home / "data" / ".locks").glob("flow-*"):
            lock.unlink()  # of the run that failed: for half a minute, its tasks may still appear
        check_served_runs(place, stack, sentence)
    finally:
        stack.down()


def check_served_runs(place: Any, stack: Stack, sentence: str) -> None:
    """Serve a run with nothing to do and one that fails: the first leaves nothing behind, the second one sentence."""
    schedules, log = place.home / "schedules.toml", place.home / "schedule.log"
    configs = {"again": "tiny.toml", "wrong": "broken.toml"}
    schedules.write_text("".join(f'[{k}]\nflow = "sample"\nconfig = "{config}"\n' for k, config in configs.items()))
    flows = "SELECT count(*) FROM tags WHERE key = 'tokenmill.kind' AND value = 'flow'"
    ((before,),) = place.mlflow(flows)
    command = [sys.executable, "-m", "flows.cli", "schedule", str(schedules)]
    with log.open("w") as out:
        serving = subprocess.Popen(command, env=place.environment, cwd=place.home, stderr=out, stdout=out)
    try:
        while prefect(place, "SELECT count(*) FROM deployment") != [(2,)]:
            assert serving.poll() is None, log.read_text()
            time.sleep(0.2)
        for name, flow_runs in (("again", before), ("wrong", before + 1)):
            run = [sys.executable, "-m", "prefect", "deployment", "run", f"sample/{name}", "--watch"]
            subprocess.run(run, env=place.environment | stack.environment(), capture_output=True, timeout=300)
            assert place.mlflow(flows) == [(flow_runs,)], name
    finally:
        serving.terminate()
        assert serving.wait(60) == 0
    printed = log.read_text()
    assert printed.count(sentence) == 1 and "Traceback" not in printed and len(printed.splitlines()) < 20, printed
    made = "SELECT flow_run_id FROM flow_run_state WHERE message = 'All of it has been made before.'"
    assert len(prefect(place, made)) == 1
    assert prefect(place, f"SELECT * FROM artifact WHERE flow_run_id IN ({made})") == []


def prefect(place: Any, query: str) -> list[Any]:
    """Return the rows of a query on Prefect's database of the home."""
    with sqlite3.connect(place.home / ".tokenmill" / "prefect" / "prefect.db", timeout=60) as database:
        return database.execute(query).fetchall()


def open_run(page: Any, address: str, name: Any) -> str:
    """Open the page of a run from the list of runs, and return its text once its log is there."""
    page.goto(f"{address}/runs")
    page.get_by_role("link", name=name, exact=True).last.click()  # the oldest
    page.get_by_text(re.compile("Finished in state .*")).last.wait_for()
    return str(page.locator("body").inner_text())


def check_good_run(page: Any, address: str) -> None:
    text = open_run(page, address, "tiny")
    assert re.search(r"\d s  ingest topics  40 documents, .* bytes, 0 rejected", text), text
    assert re.search(r"\d s  sample topics  \d+ samples", text), text
    for tag in ("tiny", "sample", "tokenmill"):
        assert page.get_by_text(tag, exact=True).first.is_visible(), tag


def check_failed_run(page: Any, address: str, sentence: str) -> None:
    text = open_run(page, address, re.compile("^broken( ·.*)?$"))
    assert "new.txt" in sentence and text.count(sentence) == 2, "its task and the run end with the sentence"
    assert "Traceback" not in text
    page.get_by_text("Details", exact=True).click()
    page.get_by_text("State Message").wait_for()
    page.get_by_text(sentence[:30]).last.wait_for()  # the page cuts it, with a link to the rest
