"""A report as a list of blocks, and its three forms: Markdown, one self-contained HTML page, LaTeX tables."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { border-bottom: 2px solid #444; }
.scroll { overflow-x: auto; }
figure { margin: 1.5rem 0; } figure svg, figure img { max-width: 100%; height: auto; }
figcaption { color: #555; }
"""


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Items:
    """A list of points."""

    texts: list[str]


@dataclass(frozen=True)
class Grid:
    """A table; ``name`` is what LaTeX and scripts know it by."""

    name: str
    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Figure:
    """A picture in ``svg`` or ``png``; ``name`` is its file's in figures/."""

    name: str
    caption: str
    svg: str


Block = Heading | Paragraph | Items | Grid | Figure


def to_markdown(blocks: Sequence[Block]) -> str:
    """GitHub's Markdown; figures are linked from the folder figures/."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def to_html(blocks: Sequence[Block], title: str) -> str:
    """One page that needs nothing else: styles and figures are inside."""
    body = "\n".join(_html(block) for block in blocks)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def to_latex(blocks: Sequence[Block]) -> str:
    """The tables alone, for booktabs."""
    return "\n\n".join(_latex(block) for block in blocks if isinstance(block, Grid)) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Paragraph(text):
            return text
        case Items(texts):
            return "\n".join(f"- {text}" for text in texts)
        case Grid(_, header, rows):
            lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
            return "\n".join("| " + " | ".join(line) + " |" for line in lines)
        case Figure(name, caption, _):
            return f"![{caption}](figures/{name}.svg)\n\n{caption}"


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{html.escape(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{html.escape(text)}</p>"
        case Items(texts):
            return "<ul>" + "".join(f"<li>{html.escape(text)}</li>" for text in texts) + "</ul>"
        case Grid(_, header, rows):
            head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
            body = "".join(
                "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows
            )
            return f'<div class="scroll"><table>\n<tr>{head}</tr>\n{body}</table></div>'
        case Figure(_, caption, svg):
            return f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>"


_LATEX = str.maketrans(
    {"±": r"$\pm$", "−": r"$-$", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "≥": r"$\ge$"}
)


def _latex(grid: Grid) -> str:
    lines = [" & ".join(cell.translate(_LATEX) for cell in row) + r" \\" for row in (grid.header, *grid.rows)]
    columns = "l" + "r" * (len(grid.header) - 1)
    body = "\n".join([lines[0], r"\midrule", *lines[1:]])
    return (
        f"% {grid.name}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n{body}\n\\bottomrule\n\\end{{tabular}}"
    )
