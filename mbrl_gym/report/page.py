"""A report as one HTML page that needs nothing else, its figures, and its numbers as JSON."""

import base64
import importlib.util
import json
import os
from collections.abc import Iterable
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from mbrl_gym.report.check import Verdict, check_model
from mbrl_gym.report.panels import figures
from mbrl_gym.report.record import Report
from mbrl_gym.report.section import plain
from mbrl_gym.report.summary import Table, gaps, tables
from mbrl_gym.report.text import number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "report.html"
STYLE = """
:root { color-scheme: light dark; --ink: #1c1917; --paper: #fff; --faint: #6b7280; --line: #d6d3d1; --card: #f5f5f4; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7e5e4; --paper: #1c1917; --faint: #a8a29e; --line: #44403c; --card: #292524; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem;
  margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p, figcaption { color: var(--faint); margin: .4rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem .25rem 0; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child, td.text, th.text { text-align: left; } td.text { white-space: pre-wrap; }
td:first-child { white-space: pre; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
.pass, .warn, .fail { font-weight: 600; } .pass::before { content: "✓ "; } .warn::before { content: "! "; }
.fail::before { content: "✗ "; } .warn { color: #b45309; } .fail { color: #dc2626; }
@media (prefers-color-scheme: dark) { .warn { color: #fbbf24; } .fail { color: #f87171; } }
"""


def save_report(report: Report, folder: str | Path) -> Path:
    """Write report.html, its figures as .png, and report.json into ``folder``; return the page's path.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the folder cannot be written.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError("matplotlib draws the report, and is not installed; install it: pip install 'mbrl-gym[viz]'")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    verdicts, pictures = check_model(report), []
    for name, caption, figure in figures(report):
        drawn = _png(figure)
        _write(folder / f"{name}.png", drawn)
        pictures.append((name, caption, drawn))
    numbers = {**report.to_json(), "verdicts": plain(verdicts)}
    _write(folder / "report.json", (json.dumps(numbers, indent=1, allow_nan=False) + "\n").encode())
    _write(folder / PAGE, _page(report, verdicts, pictures).encode())
    return folder / PAGE


def _page(report: Report, verdicts: list[Verdict], pictures: list[tuple[str, str, bytes]]) -> str:
    facts = " · ".join(f"{name}: {value:,}" if isinstance(value, int) else f"{name}: {value}" for name, value in
                       report.facts.items())  # fmt: skip
    body = [f"<h1>{escape(report.title)}</h1>", f"<p>{escape(facts)}</p>", "<h2>Verdicts</h2>", _verdicts(verdicts)]
    for table in tables(report):
        body += [f"<h2>{escape(table.title)}</h2>", _table(table)]
    body.append("<h2>Figures</h2>")
    body += [_figure(name, caption, drawn) for name, caption, drawn in pictures]
    missing = list(gaps(report))
    if missing:
        items = "".join(f"<li>{escape(name)}: {escape(reason)}</li>" for name, reason in missing)
        body.append(f"<h2>Not available</h2><ul>{items}</ul>")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _verdicts(verdicts: Iterable[Verdict]) -> str:
    rows = "".join(
        f'<tr><td class="{v.level}">{v.level}</td><td class="text">{escape(v.rule)}</td><td>{number(v.value)}</td>'
        f'<td class="text">{escape(v.threshold)}{"<br>" + escape(v.remedy) if v.remedy else ""}</td></tr>'
        for v in verdicts
    )
    head = '<tr><th></th><th class="text">rule</th><th>value</th><th class="text">threshold, remedy</th></tr>'
    return f'<div class="scroll"><table>{head}{rows}</table></div>'


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.head)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    note = f"<p>{escape(table.note)}</p>" if table.note else ""
    return f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>{note}'


def _figure(name: str, caption: str, drawn: bytes) -> str:
    source = base64.b64encode(drawn).decode()
    image = f'<img alt="{escape(name)}" src="data:image/png;base64,{source}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def _png(figure: "Figure") -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _write(file: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_bytes(content)
    os.replace(temporary, file)
