"""The pages of docs/: what they say about code, sizes, kinds and each other is so."""

import ast
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import torch

from gpt.config import SIZES, gpt_config
from gpt.model import GPT
from pipelines.store.kinds import KINDS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]


def rows(page: str) -> list[list[str]]:
    """Return the cells of all tables of a page."""
    lines = (DOCS / page).read_text().splitlines()
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if line.startswith("| ")]


def sentences() -> str:
    """Return all texts of the code, with `…` where a value is filled in."""
    found = []
    for folder in ("flows", "gpt", "pipelines"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                    found.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return "\n".join(found)


def test_each_sentence_of_troubleshooting_is_one_of_the_code() -> None:
    quoted = [cells[0][1:-1] for cells in rows("troubleshooting.md") if re.fullmatch(r"`[^`]* [^`]*`", cells[0])]
    quoted.remove("CUDA out of memory")  # PyTorch's
    code = sentences()
    assert len(quoted) > 25
    assert [sentence for sentence in quoted if sentence not in code] == []


def test_glossary_knows_every_kind_and_is_in_order() -> None:
    words = [cells[0] for cells in rows("glossary.md")][1:]
    assert words == sorted(words, key=str.lower)
    assert {kind.removesuffix("s") for kind in KINDS} <= {word.removesuffix("s") for word in words}
    (kinds,) = [cells[1] for cells in rows("glossary.md") if cells[0] == "kind"]
    assert set(re.findall(r"[a-z]+", kinds)) >= set(KINDS)


def test_sizes_have_the_layers_and_parameters_that_the_page_says() -> None:
    shown = {cells[0].strip("`"): cells[1:] for cells in rows("first-assistant.md") if cells[0].strip("`") in SIZES}
    assert list(shown) == list(SIZES)[: len(shown)] and len(shown) >= 6
    for name, cells in shown.items():
        size = SIZES[name]
        counts = []
        for vocabulary in (4096, 50257):
            with torch.device("meta"):
                model = GPT(gpt_config(name, "modern", vocabulary=vocabulary))
            counts.append(f"{sum(each.numel() for each in model.parameters()) / 1e6:.1f}M")
        assert cells == [f"{size['layers']}", f"{size['width']:,}", f"{size['context']:,}", *counts]


def test_index_leads_to_every_page() -> None:
    linked = set(re.findall(r"\(([\w-]+\.(?:md|ipynb))\)", (DOCS / "README.md").read_text()))
    there = {path.name for pattern in ("*.md", "*.ipynb") for path in DOCS.glob(pattern)} - {"README.md"}
    assert linked == there


def test_house_lists_every_part_of_the_packages() -> None:
    house = (DOCS / "house.md").read_text()
    parts = [path for package in ("flows", "gpt", "pipelines") for path in (ROOT / package).iterdir()]
    names = {path.stem for path in parts if path.is_dir() or path.suffix == ".py"}
    unlisted = {name for name in names if not name.startswith("_") and not re.search(rf"\b{name}\b", house)}
    assert unlisted <= {"lm_eval_model", "reference"}


def anchors(page: Path) -> set[str]:
    """Return the names of the headings of a page, as GitHub writes them in addresses."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_between_pages_lead_to_headings_that_exist() -> None:
    broken = []
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "CHANGELOG.md"]:
        text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            path, _, anchor = target.partition("#")
            if "://" in target:
                continue
            file = (page.parent / path).resolve() if path else page
            if not file.exists() or (anchor and anchor not in anchors(file)):
                broken.append(f"{page.name}: {target}")
    assert broken == []


def test_extras_and_targets_that_the_install_page_names_exist() -> None:
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    named = {
        name for cells in rows("install.md") if len(cells) == 2 for name in re.findall(r"`([a-z0-9-]+)`", cells[0])
    }
    assert extras == named
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)`", (DOCS / "install.md").read_text())) <= targets


@pytest.mark.parametrize(
    ("target", "installed"),
    [
        ("run", ["samples"]),
        ("check", ["samples", "samples,dev"]),
        ("bench", ["samples", "samples,dev", "samples,dev,bench"]),
    ],
)
def test_target_installs_what_it_needs_from_nothing_and_nothing_again(
    tmp_path: Path, target: str, installed: list[str]
) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)

    def extras() -> list[str]:
        done = subprocess.run(["make", "-n", target], cwd=tmp_path, capture_output=True, text=True, check=True)
        return re.findall(r"--editable '\.\[([^]]*)\]'", done.stdout)

    assert extras() == installed
    (tmp_path / ".venv").mkdir()
    for stamp in ("installed", "installed-dev", "installed-bench"):
        (tmp_path / ".venv" / stamp).touch()
    assert extras() == []
