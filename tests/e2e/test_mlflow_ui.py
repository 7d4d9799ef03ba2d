"""MLflow's pages in a real browser: two runs told apart and compared, datasets, models, the report.

Needs Chromium; Debian's package works.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from browser import CHROMIUM, MISSING, OPTIONS, TIMEOUT
from mlflow.tracking import MlflowClient

from flows.servers.stack import Stack
from pipelines.store.store import Store

playwright = pytest.importorskip("playwright.sync_api", reason="the page tests need `pip install playwright`")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason=MISSING)


@pytest.fixture(scope="module")
def link(finished: tuple[Any, Any], free_port: Callable[[], int]) -> Iterator[str]:
    """Start MLflow's server on the finished chain, and yield the link that opens its pages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")  # so that no Prefect server starts
        stack = Stack(finished[0].home, mlflow_port=free_port())
        stack.up()
        try:
            yield from stack.links()
        finally:
            stack.down()


@pytest.fixture(scope="module")
def ui(link: str) -> str:
    return link.partition("/?")[0]


@pytest.fixture(scope="module")
def page(link: str) -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.set_default_timeout(TIMEOUT)
        page.goto(link)
        yield page
        browser.close()


@pytest.fixture(scope="module")
def runs(finished: tuple[Any, Any]) -> dict[str, str]:
    """Map names to run ids, and `experiment` to its id. The oldest run of a name counts."""
    client = MlflowClient(f"sqlite:///{finished[0].home}/mlruns/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'tiny'")
    found = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"])
    return {run.info.run_name: run.info.run_id for run in found} | {"experiment": experiment.experiment_id}


def test_runs_nest_and_compared_runs_share_axes(ui: str, page: Any, runs: dict[str, str]) -> None:
    compare_two(
        page, ui, runs["experiment"], runs["tiny"], runs["pretrain tiny"], runs["finetune-classifier tiny-sort"]
    )


@pytest.fixture(scope="module")
def two_runs(finished: tuple[Any, Any], tmp_path_factory: Any, free_port: Callable[[], int]) -> Iterator[str]:
    """Train again with another learning rate in a copy of the finished chain; yield the link to MLflow's pages."""
    place = finished[0]
    home = tmp_path_factory.mktemp("two") / "home"
    shutil.copytree(place.home, home, ignore=shutil.ignore_patterns(".tokenmill"))
    copy = type(place)(home, place.config)
    copy.tokenmill("pretrain", str(place.config), "--set", "pretrain.learning_rate=0.01")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
        stack = Stack(home, mlflow_port=free_port())
        stack.up()
        try:
            yield from stack.links()
        finally:
            stack.down()


@pytest.mark.slow
def test_two_runs_are_told_apart_from_the_first_page_to_their_curves(two_runs: str, page: Any) -> None:
    walk(page.context.browser.new_page(viewport={"width": 1500, "height": 1000}), two_runs, "tiny", "0.01")


def walk(page: Any, link: str, name: str, rate: str, shoot: Callable[[str], None] = lambda picture: None) -> None:
    """Open MLflow as a person does, compare two runs, and open the registry.

    Args:
        page: a new page of a browser.
        link: what `tokenmill up` prints.
        name: of the experiment, its first run and its model.
        rate: the learning rate of the second run.
        shoot: takes a picture for the documentation.
    """
    page.set_default_timeout(TIMEOUT)
    second = f"{name} · learning_rate={rate}"
    page.goto(link)
    page.get_by_role("link", name="Model registry").wait_for()
    page.get_by_role("link", name=name, exact=True).first.click()
    page.get_by_role("link", name=second, exact=True).first.wait_for()
    page.get_by_role("button", name="Views").click()
    page.get_by_role("menuitem", name="tokenmill").click()
    for column in ("learning_rate", "test/bits_per_byte", "val/loss", "User", "Source"):
        page.locator(".ag-header-cell", has_text=column).first.wait_for()
    for run in (name, second):
        row = page.locator(".ag-row", has=page.get_by_role("link", name=run, exact=True)).first.get_attribute("row-id")
        page.locator(f'[row-id="{row}"] input.ag-checkbox-input').check()
    shoot("runs")
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_text("Comparing 2 Runs from 1 Experiment").wait_for()
    text = page.locator("body").inner_text()
    assert second in text and all(word in text for word in ("learning_rate", "parameters", "best_val_loss"))
    shoot("compare")
    # The list of metrics holds only what is in sight, so open the address that a click further down would open.
    curve = page.get_by_role("link", name="best_step", exact=True).first.get_attribute("href")
    page.goto(f"{link.partition('/?')[0]}/{curve[curve.index('#') :]}".replace("%22best_step%22", "%22train%2Floss%22"))
    for run in (name, second):
        page.get_by_text(f"{run} (train/loss)", exact=True).first.wait_for()  # the legend
    shoot("curves")
    page.get_by_role("link", name="Model registry").click()
    page.locator(f'a[href="#/models/{name}"]').first.click()
    page.get_by_text("champion").first.wait_for()
    shoot("model")


def compare_two(page: Any, ui: str, experiment: str, parent: str, first: str, second: str) -> None:
    page.goto(f"{ui}/#/experiments/{experiment}/runs")
    page.locator(f'[row-id="{parent}"]').first.wait_for()
    if page.get_by_label("Close").is_visible():
        page.get_by_label("Close").click()
    assert page.locator(f'[row-id="{first}"]').count() == 0, "a child run is hidden under its parent"
    page.locator(f'[row-id="{parent}"] button[data-component-id*=runnamecell]').click()
    for run in (first, second):
        page.locator(f'[row-id="{run}"] input.ag-checkbox-input').check()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_text("Comparing 2 Runs from 1 Experiment").wait_for()
    text = page.locator("body").inner_text()
    for name in ("learning_rate", "steps", "batch_size", "train/loss", "parameters", "best_val_loss"):
        assert name in text, name
    # Open the address of the link: the page moves while it draws plots, so that a click would miss.
    link = page.get_by_role("link", name="train/loss", exact=True).first.get_attribute("href")
    assert "/metric?" in link and first in link and second in link
    for metric in ("train/loss", "val/loss"):
        page.goto(f"{ui}/{link[link.index('#') :]}".replace("train%2Floss", metric.replace("/", "%2F")))
        page.get_by_text(f"({metric})").nth(1).wait_for()
        curves = page.locator(".scatterlayer").first.locator("path.js-line")
        curves.nth(1).wait_for(state="attached")
        colours = curves.evaluate_all("lines => lines.map(line => line.style.stroke)")
        # MLflow draws a curve twice, smoothed and as it is. Its colour follows from the run's id, so two may be equal.
        assert len(colours) in (2, 4) and all(colours), "each run has a curve on the same axes"
        shapes = set(curves.evaluate_all("lines => lines.map(line => line.getAttribute('d'))"))
        assert len(shapes) >= 2, "and the two curves differ"


def test_run_page_describes_the_run_and_links_its_report(ui: str, page: Any, runs: dict[str, str]) -> None:
    page.goto(f"{ui}/#/experiments/{runs['experiment']}/runs/{runs['tiny']}")
    page.get_by_text("result", exact=True).first.wait_for()
    link = page.get_by_role("link", name="report", exact=True).get_attribute("href")
    assert link.endswith(f"/#/experiments/{runs['experiment']}/runs/{runs['tiny']}/artifacts/report.html")
    prefect = page.get_by_role("link", name="Prefect's page on this run").get_attribute("href")
    assert re.search("/runs/flow-run/[0-9a-f-]{36}$", prefect)
    page.goto(ui + link[link.index("/#/") :])
    shown = page.frame_locator("iframe")
    shown.get_by_role("heading", name="What tiny made").wait_for()
    assert shown.get_by_role("heading", name="Token embeddings in two dimensions").count() == 1
    assert shown.locator("svg.chart").count() > 10


def test_dataset_of_a_step_shows_columns_and_rows(ui: str, page: Any, runs: dict[str, str]) -> None:
    page.goto(f"{ui}/#/experiments/{runs['experiment']}/runs/{runs['tokenize topics']}")
    page.get_by_text("corpus/topics (").click()
    drawer = page.get_by_role("dialog")
    drawer.get_by_text("n_bytes").wait_for()
    text = drawer.inner_text()
    assert "doc_id" in text and "string" in text and "long" in text
    assert re.search(r"num rows: \d+", text)


def test_plot_is_shown_with_the_run_of_its_step(ui: str, page: Any, runs: dict[str, str]) -> None:
    page.goto(f"{ui}/#/experiments/{runs['experiment']}/runs/{runs['pretrain tiny']}/artifacts/plots/loss.svg")
    picture = page.locator("img[src*='blob:'], img[src*='get-artifact'], img[src*='svg']").first
    picture.wait_for()
    page.wait_for_function("e => e.naturalWidth > 100", arg=picture.element_handle())


def test_registered_model_shows_its_alias_and_signature(ui: str, page: Any) -> None:
    page.goto(f"{ui}/#/models/tiny-sort")
    page.get_by_text("champion").first.wait_for()
    page.goto(f"{ui}/#/models/tiny-sort/versions/1")
    page.get_by_text("champion").first.wait_for()
    for word in ("Inputs (1)", "Outputs (2)"):
        page.get_by_text(word).click()
    text = page.locator("body").inner_text()
    assert "label" in text and "probability" in text and "text" in text
    page.get_by_role("link", name="model", exact=True).first.click()
    page.get_by_role("link", name="Artifacts").click()
    page.get_by_text("serving_input_example.json").first.click()
    page.get_by_text("Congratulations").first.wait_for()


def test_report_fits_a_phone_has_dark_mode_and_loads_nothing(page: Any, finished: tuple[Any, Any]) -> None:
    address = Store(finished[0].home / "data").open("report/tiny").file("report.html").as_uri()
    phone = page.context.browser.new_page(viewport={"width": 390, "height": 800})
    requested: list[str] = []
    logged: list[str] = []
    phone.on("request", lambda request: requested.append(request.url))
    phone.on("console", lambda message: logged.append(message.text))
    backgrounds = set()
    for scheme in ("light", "dark"):
        phone.emulate_media(color_scheme=scheme)
        phone.goto(address)
        backgrounds.add(phone.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert phone.evaluate("document.documentElement.scrollWidth") <= 390
        chart = phone.locator("svg.chart").first.bounding_box()
        assert 300 < chart["width"] < 390
    assert len(backgrounds) == 2 and requested == [address] * 2 and logged == []
    phone.close()
