"""A hook of mkdocs: a page of reference for each package and each module beside the packages, by mkdocstrings."""

import shutil
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"": "mbrl_gym", "agents": "agents", "wrappers": "wrappers"}
PRIVATE = ("cli",)  # has a guide of its own, and nothing to import


def on_startup(**_: Any) -> None:
    """Lay the package out as it is installed, where mkdocstrings looks for it."""
    target = ROOT / "build" / "docs" / "mbrl_gym"
    shutil.rmtree(target, ignore_errors=True)
    for name, folder in FOLDERS.items():
        ignored = shutil.ignore_patterns("__pycache__", "Learned-*")
        shutil.copytree(ROOT / folder, target / name, ignore=ignored, dirs_exist_ok=True)


def on_config(config: Any) -> Any:
    """Add the pages to the navigation."""
    config["nav"] = [*config["nav"], {"Reference": [{name: path} for name, path in pages()]}]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages."""
    for name, path in pages():
        blocks = [f"::: {module}" for module in modules() if module == name or path == _page(module)]
        files.append(File.generated(config, path, content="\n\n".join([f"# {name}", *blocks])))
    return files


def modules() -> list[str]:
    """Return every public module that is no package, by its name."""
    found = []
    for name, folder in FOLDERS.items():
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = ["mbrl_gym", name, *file.relative_to(ROOT / folder).with_suffix("").parts]
            if not any(part.startswith("_") or part in PRIVATE for part in parts):
                found.append(".".join(part for part in parts if part))
    return sorted(found)


def pages() -> list[tuple[str, str]]:
    """Return title and path of every page."""
    return [(name, path) for path, name in sorted({_page(module): _title(module) for module in modules()}.items())]


def _title(module: str) -> str:
    """Return the package that a module is documented with: itself, where it stands beside the packages."""
    parts = module.split(".")
    return ".".join(parts[:2])


def _page(module: str) -> str:
    return f"reference/{_title(module).removeprefix('mbrl_gym.')}.md"
