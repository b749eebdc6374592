"""The table in docs/faults.md says of each cell where it is from, and what it names is there."""

import ast
import re
from collections import Counter
from itertools import product
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "faults.md").read_text()

STORES = {"memory", "SQLite", "Redis, Valkey", "PostgreSQL", "MariaDB, MySQL"}
FAULTS = {"process kill", "server kill", "power loss", "failover", "eviction", "restore from backup"}
OFFICIAL = {"sqlite.org", "valkey.io", "redis.io", "www.postgresql.org", "mariadb.com", "dev.mysql.com"}

#: Each setting that decides what survives, and the fault by which it shows.
SETTINGS = {
    "durable=True": "power loss",
    "durable=False": "power loss",
    **{f"append{policy}": "server kill" for policy in ("only no", "fsync no", "fsync everysec", "fsync always")},
    "min_replicas=0": "failover",
    "min_replicas=1": "failover",
    "synchronous_commit=on": "server kill",
    "synchronous_commit=off": "server kill",
    "fsync=off": "power loss",
    **{f"innodb_flush_log_at_trx_commit={policy}": "server kill" for policy in (0, 1, 2)},
}


def rows() -> list[list[str]]:
    table = PAGE.partition("## The table")[2].partition("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    assert cells[0] == ["store", "configuration", "fault", "claims", "answers", "steps", "a retry then"]
    return cells[2:]


def marks(text: str) -> list[str]:
    return re.findall(r"\[([td]\d+)\]", text)


def named(section: str) -> dict[str, str]:
    """What each mark that a list at the end of the page defines stands for."""
    listed = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^- ([td]\d+) (.+)$", listed, flags=re.MULTILINE)
    assert len(found) == len(dict(found))
    return dict(found)


TESTS = {mark: name.strip("`") for mark, name in named("Tests").items()}


@pytest.mark.parametrize("row", rows(), ids=lambda row: ": ".join(row[:3]))
def test_each_cell_is_from_a_test_or_from_documentation(row: list[str]) -> None:
    assert len(row) == 7
    assert all(cell == "—" or marks(cell) for cell in row[3:6])


def test_each_mark_stands_for_something_and_nothing_is_listed_for_no_cell() -> None:
    assert set(marks(PAGE)) == set(TESTS) | set(named("Documentation"))


@pytest.mark.parametrize("name", TESTS.values())
def test_each_test_that_is_named_is_there(name: str) -> None:
    path, *inner = name.split("::")
    found: ast.AST = ast.parse((ROOT / path).read_text())
    for part in inner:
        (found,) = [node for node in ast.iter_child_nodes(found) if getattr(node, "name", None) == part]
    assert isinstance(found, ast.FunctionDef)
    assert found.name.startswith("test_")


def test_each_test_of_a_fault_stands_behind_the_table() -> None:
    files = set(Path(__file__).parent.glob("test_*.py")) - {Path(__file__)}
    nodes = [(path, node) for path in files for node in ast.parse(path.read_text()).body]
    ours = {
        f"{path.relative_to(ROOT)}::{node.name}"
        for path, node in nodes
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    assert ours <= set(TESTS.values())


def test_documentation_is_that_of_the_server_itself() -> None:
    for linked in named("Documentation").values():
        urls = [urlsplit(url) for url in re.findall(r"\]\((\S+)\)", linked)]
        assert urls
        assert all(url.scheme == "https" and url.hostname in OFFICIAL for url in urls)


def test_each_store_meets_each_fault_in_each_configuration_once() -> None:
    met = Counter(
        (store, configuration, fault) for store, configuration, faults, *_ in rows() for fault in faults.split(", ")
    )
    assert set(met.values()) == {1}
    assert {(store, fault) for store, _, fault in met} == set(product(STORES, FAULTS))
    for setting, fault in SETTINGS.items():
        assert any(f"`{setting}`" in configuration and fault == of for _, configuration, of in met), setting


def test_the_readme_leads_here() -> None:
    assert "(docs/faults.md)" in (ROOT / "README.md").read_text()
