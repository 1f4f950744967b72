"""Document pages: contracts, amendments, invoices, tables and letters, printed or scanned, drawn with Pillow.

variant: contract, amendment, invoice, table or letter.
title: text.
number, date: text, optional, as are all that follow.
parties: [text].
fields: {label: value}, such as {"Payment term": "30 business days"}.
paragraphs: [{"heading"?: text, "text": text}].
table: {"columns": [text], "rows": [[value, one for each column]]}.
signatures: [{"name": text, "date"?: text}].
stamp: text across the page.
page, pages: the number of the page, and of all pages.
scan: true for the effects of a scanner.

Cells are title, number, date, parties.0, fields.LABEL, paragraphs.0.heading, paragraphs.0.text, table.columns.1,
table.2.1 (row, column), signatures.0.name, signatures.0.date and stamp. The seed chooses page size, fonts, colours, the
order and form of the parts, and the effects of a scan.

    >>> from teacher.scenes import Scene, draw
    >>> data = {
    ...     "variant": "amendment",
    ...     "title": "Amendment A-101",
    ...     "fields": {"Payment term": "30 business days"},
    ...     "signatures": [{"name": "Ada Nore", "date": "2026-01-05"}],
    ...     "stamp": "EXECUTED",
    ...     "scan": True,
    ... }
    >>> sorted(cell.key for cell in draw(Scene("document", data, seed=3)).cells)
    ['fields.Payment term', 'signatures.0.date', 'signatures.0.name', 'stamp', 'title']
"""

import random
from typing import Any

from PIL import Image

from teacher.scenes.document.page import Page
from teacher.scenes.document.samples import example as example
from teacher.scenes.document.scan import scanned
from teacher.scenes.document.style import Style
from teacher.scenes.scene import MAX_SIDE, Cell, SceneError

VARIANTS = ("contract", "amendment", "invoice", "table", "letter")
_OPTIONAL = {
    *("number", "date", "parties", "paragraphs", "table", "fields"),
    *("signatures", "stamp", "page", "pages", "scan"),
}
# Factors of the font sizes, tried in order until the content fits on a page.
_SCALES = (1.0, 0.88, 0.76)


def paint(data: dict[str, Any], seed: int) -> tuple[Image.Image, list[Cell]]:
    """Draws a page; returns the image and its cells.

    Raises:
        SceneError: invalid data, or content that exceeds a page.
    """
    _validate(data)
    for scale in _SCALES:
        rng = random.Random(f"document/{data['variant']}/{seed}")
        style = Style.of(rng, data["variant"], bool(data.get("scan")))
        page = Page(data, style, scale, rng)
        if page.fits():
            image, cells = page.image(), page.canvas.cells
            return scanned(image, cells, seed) if data.get("scan") else (image, cells)
    raise SceneError(f"document {data['title']!r}: more than a page of {MAX_SIDE} px holds")


def source(data: dict[str, Any]) -> str:
    """The content of the page as lines of text."""
    head = [data["title"], data.get("number"), data.get("date")]
    lines = [", ".join(str(part) for part in head if part)]
    lines += [str(party) for party in data.get("parties") or []]
    lines += [f"{label}: {value}" for label, value in (data.get("fields") or {}).items()]
    for paragraph in data.get("paragraphs") or []:
        heading = paragraph.get("heading")
        lines.append(f"{heading}: {paragraph['text']}" if heading else paragraph["text"])
    if table := data.get("table"):
        lines += [" | ".join(map(str, row)) for row in (table["columns"], *table["rows"])]
    for signature in data.get("signatures") or []:
        signed = [signature["name"], signature.get("date")]
        lines.append("Signed " + ", ".join(part for part in signed if part))
    if data.get("stamp"):
        lines.append(f"Stamp: {data['stamp']}")
    if data.get("pages", 1) > 1:
        lines.append(f"Page {data.get('page', 1)} of {data['pages']}")
    return "\n".join(lines)


def _validate(data: dict[str, Any]) -> None:
    if data.get("variant") not in VARIANTS:
        raise SceneError(f"variant: {data.get('variant')!r}: expected one of {', '.join(VARIANTS)}")
    if not data.get("title"):
        raise SceneError("title: a document needs one")
    unknown = set(data) - _OPTIONAL - {"variant", "title"}
    if unknown:
        raise SceneError(f"{min(unknown)}: a document has no such field")
    table = data.get("table")
    if table and any(len(row) != len(table["columns"]) for row in table["rows"]):
        raise SceneError("table: expected as many values in each row as there are columns")
