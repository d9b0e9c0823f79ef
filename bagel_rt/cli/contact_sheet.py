"""Pictures with captions on one page."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

TILE, GAP, LINE, FONT_SIZE = 160, 8, 15, 12
LETTERS = 26  # that fit into a line of caption at FONT_SIZE
FRAMES = {None: "#999", True: "#3a3", False: "#d22"}


@dataclass(frozen=True)
class Card:
    """A picture and what is said of it; `right` colours its frame: green, red, or grey where nobody judged."""

    picture: Image.Image
    caption: str
    right: bool | None = None


def contact_sheet(cards: Sequence[Card], columns: int, lines: int = 3) -> Image.Image:
    """All cards in rows of `columns`, each TILE pixels wide with up to `lines` lines of caption below it."""
    columns = max(1, min(columns, len(cards)))
    across, down = TILE + GAP, TILE + GAP + LINE * lines
    sheet = Image.new("RGB", (columns * across, -(-len(cards) // columns) * down), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    for i, card in enumerate(cards):
        x, y = i % columns * across + GAP // 2, i // columns * down + GAP // 2
        sheet.paste(_fitted(card.picture), (x, y))
        pen.rectangle((x - 2, y - 2, x + TILE + 1, y + TILE + 1), outline=FRAMES[card.right], width=2)
        text = textwrap.wrap(card.caption, LETTERS, max_lines=lines, placeholder=" ...")
        for n, line in enumerate(text):
            pen.text((x, y + TILE + 3 + LINE * n), line, fill="black", font=font)
    return sheet


def _fitted(picture: Image.Image) -> Image.Image:
    """The picture, as large as fits, in the middle of a square of TILE pixels."""
    scale = TILE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    tile = Image.new("RGB", (TILE, TILE), "white")
    resampling = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS
    tile.paste(picture.convert("RGB").resize(size, resampling), ((TILE - size[0]) // 2, (TILE - size[1]) // 2))
    return tile
