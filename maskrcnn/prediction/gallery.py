"""Writes a gallery of pictures as an html page, which sorts and filters them without a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Template


@dataclass(frozen=True)
class Card:
    """One picture of the gallery.

    Args:
        picture: its file, relative to the page.
        title: text below it.
        classes: classes of its objects.
        numbers: numbers by name, by which the page can sort.
    """

    picture: str
    title: str
    classes: Sequence[str]
    numbers: dict[str, float]


def to_page(title: str, cards: Sequence[Card], sort_by: str) -> str:
    """Build the html page. It loads nothing from the network.

    Args:
        title: of the page.
        cards: the pictures.
        sort_by: the number to sort by first, descending.
    """
    text = files(__package__).joinpath("gallery.html.j2").read_text("utf-8")
    template = Template(text, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    numbers = dict.fromkeys(name for card in cards for name in card.numbers)
    classes = sorted({name for card in cards for name in card.classes})
    page: str = template.render(title=title, cards=cards, sort_by=sort_by, numbers=numbers, classes=classes)
    return page
