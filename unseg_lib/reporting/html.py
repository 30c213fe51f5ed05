"""Tables as HTML: plain, restrained, readable in print, the same in a notebook and in the report."""

from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Link:
    """A cell whose text leads to `href`, relative to the report."""

    text: str
    href: str

    def __str__(self) -> str:
        return self.text


SHORT = 8  # letters of a number or "not run": such a cell is not broken, however narrow its column
Cell = str | Link | tuple  # a tuple holds several, shown one after the other


@dataclass(frozen=True)
class Table:
    """Columns, rows of cells, and one letter per column: l(eft) or r(ight). A row of one cell is a heading,
    in which what follows a tuple's first text is a remark.

    Numbers are formatted by who makes the table, with the same decimals down a column.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    align: str
    caption: str = ""

    def _repr_html_(self) -> str:
        if not self.rows:
            return "<p>(nothing to list)</p>"
        head = "".join(self._cell("th", name, side) for name, side in zip(self.columns, self.align))
        body = "".join(self._row(row) for row in self.rows)
        caption = f"<caption>{escape(self.caption)}</caption>" if self.caption else ""
        return f'<table class="unseg">{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'

    def _row(self, row: tuple) -> str:
        if len(row) == 1 and len(self.columns) > 1:
            first, *rest = row[0] if isinstance(row[0], tuple) else row
            note = f' <span style="font-weight:normal">{_text(" ".join(rest))}</span>' if any(rest) else ""
            place = f'colspan="{len(self.columns)}" style="text-align:left"'
            return f'<tr class="group"><th {place}>{_text(first)}{note}</th></tr>'
        return f"<tr>{''.join(self._cell('td', cell, side) for cell, side in zip(row, self.align))}</tr>"

    def _cell(self, tag: str, cell: Cell, side: str) -> str:
        style = f"text-align:{'left' if side == 'l' else 'right'};font-variant-numeric:tabular-nums"
        if tag == "td" and side == "r" and len(_plain(cell)) <= SHORT:
            style += ";white-space:nowrap"
        return f'<{tag} style="{style}">{_text(cell)}</{tag}>'

    def markdown(self) -> str:
        """The table in Markdown, without links; headings bold, in the first column."""
        empty = ("",) * (len(self.columns) - 1)
        rows = [row if len(row) == len(self.columns) else (f"**{_plain(row[0])}**", *empty) for row in self.rows]
        lines = [self.columns, ("---",) * len(self.columns), *rows]
        return "\n".join(f"| {' | '.join(map(_plain, line))} |" for line in lines)

    def records(self) -> list[dict]:
        """The rows as dicts of texts, for metrics.json; headings are left out."""
        return [dict(zip(self.columns, map(_plain, row))) for row in self.rows if len(row) == len(self.columns)]


def _text(cell: Cell) -> str:
    if isinstance(cell, tuple):
        return " ".join(_text(part) for part in cell)
    if isinstance(cell, Link):
        return f'<a href="{escape(cell.href)}">{escape(cell.text)}</a>'
    return escape(cell)


def _plain(cell: Cell) -> str:
    return " ".join(map(_plain, cell)) if isinstance(cell, tuple) else str(cell)
