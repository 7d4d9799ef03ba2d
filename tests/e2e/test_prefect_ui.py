"""Prefect's pages in a real browser: what a run has done, and why a run has failed.

Needs Chromium, as `test_mlflow_ui.py` does.
"""

import re
from collections.abc import Callable
from typing import Any

import pytest
from test_mlflow_ui import CHROMIUM, OPTIONS, TIMEOUT

from flows.servers.stack import Stack

playwright = pytest.importorskip("playwright.sync_api", reason="the page tests need `pip install playwright`")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium: apt-get install chromium, or name it in TOKENMILL_CHROMIUM"),
]


def test_pages_show_what_a_run_did_and_why_another_failed(place: Any, free_port: Callable[[], int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place.home}/mlruns/mlflow.db")  # so that no MLflow starts
        stack = Stack(place.home, prefect_port=free_port())
        stack.up()
    try:
        place.tokenmill("sample", str(place.config))
        (place.home / "texts" / "new.txt").write_bytes(bytes(range(256)) * 20)
        broken = place.home / "broken.toml"
        broken.write_text(place.config.read_text().replace("texts/*.txt", "texts/new.txt"))
        failed = place.tokenmill("sample", str(broken), "--set", "sample.stride=32", check=False)
        assert failed.returncode == 2 and len(failed.stderr.splitlines()) == 1, failed.stderr
        (link,) = stack.links()
        with playwright.sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
            page = browser.new_page(viewport={"width": 1500, "height": 1000})
            page.set_default_timeout(TIMEOUT)
            page.goto(link)
            address = link.partition("/?")[0]
            check_good_run(page, address)
            check_failed_run(page, address, failed.stderr.strip().removeprefix("tokenmill: "))
            browser.close()
    finally:
        stack.down()


def open_run(page: Any, address: str, name: Any) -> str:
    """Open the page of a run from the list of runs, and return its text once its log is there."""
    page.goto(f"{address}/runs")
    page.get_by_role("link", name=name, exact=True).first.click()
    page.get_by_text(re.compile("Finished in state .*")).last.wait_for()
    return str(page.locator("body").inner_text())


def check_good_run(page: Any, address: str) -> None:
    text = open_run(page, address, "tiny")
    assert re.search(r"\d s  ingest topics  40 documents, .* bytes, 0 rejected", text), text
    assert re.search(r"\d s  sample topics  \d+ samples", text), text
    for tag in ("tiny", "sample", "tokenmill"):
        assert page.get_by_text(tag, exact=True).first.is_visible(), tag


def check_failed_run(page: Any, address: str, sentence: str) -> None:
    text = open_run(page, address, re.compile(r"^tiny · .*stride=32"))
    assert "new.txt" in sentence and text.count(sentence) == 2, "its task and the run end with the sentence"
    assert "Traceback" not in text
    page.get_by_text("Details", exact=True).click()
    page.get_by_text(sentence).first.wait_for()
