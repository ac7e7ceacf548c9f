"""What the pages say is what the tree has: files, routes, keys, commands."""

import importlib.util
import re
from pathlib import Path

import pytest

from shoal.cluster.http_edge import OPEN_ROUTES

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


@pytest.fixture(params=PAGES, ids=lambda path: path.name)
def page(request):
    return request.param


def test_every_file_that_a_page_names_exists(page):
    named = re.findall(r"`((?:proto|router|instance|cluster|bench|tests|docs|requirements)/[\w./]*)`", page.read_text())
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing


def test_every_link_within_the_tree_leads_somewhere(page):
    links = [link for link in re.findall(r"\]\(([^)#]+)", page.read_text()) if "://" not in link]
    assert not [link for link in links if not (page.parent / link).exists()]


def test_every_make_command_exists(page):
    targets = set(re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    said = set(re.findall(r"(?:`|^)make ([a-z0-9]+)", page.read_text(), re.MULTILINE))
    assert said <= targets


def test_the_two_commands_stand_at_the_top_of_the_readme():
    top = (ROOT / "README.md").read_text().splitlines()[:12]
    assert any(line.startswith("make up") for line in top)
    assert any(line.startswith("make test") for line in top)


def test_the_life_of_a_request_fits_its_page():
    assert len((ROOT / "docs" / "life_of_a_request.md").read_text().splitlines()) < 80


def test_the_table_of_keys_is_the_configurations():
    spec = importlib.util.spec_from_file_location("config_table", ROOT / "docs" / "config_table.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (ROOT / "docs" / "operations.md").read_text()
    assert module.page_with_table(page) == page, "run `make docs`"


def test_the_table_of_routes_is_the_edges():
    said = re.findall(r"^\| `(GET|POST) (/\S+)` \|", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert set(said) == OPEN_ROUTES
