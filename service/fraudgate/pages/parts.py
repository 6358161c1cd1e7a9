"""What a page is made of: tiles, sections, tables."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template


def page(title: str, body: Iterable[str]) -> str:
    """The whole page; ``title`` is a text, ``body`` is HTML."""
    template = files("fraudgate.pages").joinpath("page.html").read_text("utf-8")
    return Template(template).substitute(title=escape(title), body="\n".join(body))


def tile_row(given: Iterable[tuple[str, str]]) -> str:
    """Large figures with a line of text below each."""
    cells = "".join(f'<div class="tile"><b>{escape(big)}</b><span>{escape(small)}</span></div>' for big, small in given)
    return f'<div class="tiles">{cells}</div>'


def section(title: str, note: str, content: str) -> str:
    """``content`` is HTML, the others are texts."""
    words = f'<p class="soft">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{words}{content}</section>"


def fact_list(given: Mapping[str, str]) -> str:
    """A list of names and what is to be said of each."""
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(fact)}</dd>" for name, fact in given.items()) + "</dl>"


def table(heads: Sequence[str], rows: Iterable[tuple[str, str, Sequence[str]]], raw: bool = False) -> str:
    """``rows`` are (class, label, cells); ``raw`` cells are HTML already."""
    head = "".join(f'<th scope="col">{escape(each)}</th>' for each in heads)
    body = "".join(
        f'<tr class="{kind}"><th scope="row">{escape(label)}</th>'
        + "".join(f"<td>{cell if raw else escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for kind, label, cells in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
