"""The documentation: every Python block runs, links and names are right, and the site is built."""

import ast
import importlib
import re
import subprocess
import sys
import types

import pytest

from conftest import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(page.name for page in DOCS.glob("*.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page):
    """The Python of a page."""
    return BLOCK.findall((DOCS / page).read_text())


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
def test_the_blocks_of_a_page_run_one_after_the_other(page, home, tmp_path, monkeypatch):
    if "minari" in "".join(blocks(page)):
        pytest.importorskip("minari", reason="Minari is an extra")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)  # where dataclasses look for their names
    for block in blocks(page):
        exec(compile(block, page, "exec"), vars(module))


def test_the_guides_that_promise_code_have_some():
    promised = {"index.md", "own-environment.md", "world-model.md", "model-error.md", "data.md", "runs.md"}
    promised |= {"agents.md"}
    assert promised == {page for page in PAGES if blocks(page)}
    assert "check_world_model(Linear(" in "".join(blocks("world-model.md"))


@pytest.mark.parametrize("page", PAGES)
def test_lines_of_code_are_not_too_long(page):
    for block in blocks(page):
        ast.parse(block)
        assert max(map(len, block.splitlines())) <= 120


@pytest.mark.parametrize("page", PAGES)
def test_what_is_named_is_there(page):
    text = (DOCS / page).read_text()
    for name in re.findall(r"`(mbrl_gym(?:\.\w+)+)", text):
        module, _, attribute = name.rpartition(".")
        try:
            importlib.import_module(name)
        except ImportError:
            assert hasattr(importlib.import_module(module), attribute), name


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert [page for page in PAGES if f": {page}\n" not in navigation] == []


def test_a_link_to_nowhere_is_an_error(tmp_path):
    pytest.importorskip("mkdocs", reason="mkdocs is an extra")
    ours = (ROOT / "mkdocs.yml").read_text()
    rules = ours[ours.index("validation:") : ours.index("markdown_extensions:")]
    (tmp_path / "mkdocs.yml").write_text("site_name: x\ntheme: {name: mkdocs}\nplugins: []\n" + rules)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# x\n\n[x](#x)\n")
    assert built(tmp_path).returncode == 0
    broken = ("nowhere.md", "#nowhere", "/index.md", "nowhere")
    (tmp_path / "docs" / "index.md").write_text("# x\n\n" + "".join(f"[x]({link})\n" for link in broken))
    refused = built(tmp_path)
    assert refused.returncode != 0
    assert [link for link in broken if f"'{link}'" not in refused.stderr] == []


def built(folder):
    """The process that builds the site of a folder as `make docs` does ours."""
    command = re.search(r"-m (mkdocs build .*)", (ROOT / "Makefile").read_text())[1].split()
    return subprocess.run([sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True)


def test_make_check_builds_the_site():
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^check: setup docs$", makefile, re.MULTILINE)
    assert "docs" in re.search(r"^EXTRAS \?= (.*)$", makefile, re.MULTILINE)[1].split(",")


def test_every_command_is_in_its_guide():
    text, commands = (DOCS / "cli.md").read_text(), (ROOT / "mbrl_gym" / "cli" / "commands.py").read_text()
    found = re.findall(r'subcommand\("(\w+)"\)', commands)
    assert len(found) == 8
    assert [name for name in found if f"| `mbrl-gym {name}" not in text] == []


def test_every_public_module_has_a_page_of_reference(monkeypatch):
    pytest.importorskip("mkdocs", reason="mkdocs is an extra")
    monkeypatch.syspath_prepend(str(DOCS))
    reference = importlib.import_module("reference")
    modules = reference.modules()
    assert {"mbrl_gym.replay", "mbrl_gym.models.ensemble", "mbrl_gym.agents.dyna", "mbrl_gym.wrappers.halt"} <= {
        *modules
    }
    assert not [name for name in modules if "._" in name or ".cli" in name]
    for name in modules:
        importlib.import_module(name)
    titles = [title for title, _ in reference.pages()]
    assert len(titles) == len(set(titles)) == len({path for _, path in reference.pages()})
    assert {"mbrl_gym.replay", "mbrl_gym.models", "mbrl_gym.agents", "mbrl_gym.data"} <= set(titles)
