"""Writes a gallery of pictures as an html page, which sorts and filters them without a network."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass


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
    names = list(dict.fromkeys(name for card in cards for name in card.numbers))
    classes = sorted({name for card in cards for name in card.classes})
    fields = {
        "title": html.escape(title),
        "count": str(len(cards)),
        "orders": "".join(_option(name, name == sort_by) for name in names),
        "classes": "".join(_option(name, False) for name in classes),
        "cards": "\n".join(_card(card) for card in cards),
    }
    page = _PAGE
    for name, text in fields.items():
        page = page.replace(f"{{{{{name}}}}}", text)
    return page


def _option(name: str, chosen: bool) -> str:
    text = html.escape(name, quote=True)
    return f'<option value="{text}"{" selected" if chosen else ""}>{text}</option>'


def _card(card: Card) -> str:
    numbers = html.escape(json.dumps(card.numbers), quote=True)
    classes = html.escape(json.dumps(list(card.classes)), quote=True)
    shown = " · ".join(
        f"{html.escape(name)} <b>{value:g}</b>" for name, value in card.numbers.items() if value
    )
    picture, title = html.escape(card.picture, quote=True), html.escape(card.title)
    return (
        f'<figure data-numbers="{numbers}" data-classes="{classes}" data-title="{html.escape(card.title, quote=True)}">'
        f'<a href="{picture}"><img src="{picture}" loading="lazy" alt="{title}"></a>'
        f"<figcaption>{title}<br><span>{shown}</span></figcaption></figure>"
    )


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{title}}</title>
<style>
body { font: 14px/1.4 system-ui, sans-serif; margin: 0; color: #222; background: #f4f4f2 }
header { position: sticky; top: 0; background: #fff; border-bottom: 1px solid #ccc; padding: 10px 16px; z-index: 1 }
h1 { font-size: 17px; margin: 0 0 6px } label { margin-right: 16px; white-space: nowrap }
main { display: grid; gap: 14px; padding: 14px;
  grid-template-columns: repeat(auto-fill, minmax(min(620px, 100%), 1fr)) }
figure { margin: 0; background: #fff; border: 1px solid #ddd; border-radius: 4px; overflow: hidden }
figure[hidden] { display: none } img { display: block; width: 100%; height: auto }
figcaption { padding: 6px 10px; overflow-wrap: anywhere } figcaption span { color: #666; font-size: 13px }
</style></head><body>
<header><h1>{{title}}</h1>
<label>sort by <select id="order">{{orders}}<option value="">file name</option></select></label>
<label><input type="checkbox" id="rising"> smallest first</label>
<label>show <select id="class"><option value="">all classes</option>{{classes}}</select></label>
<label>name <input id="name" size="14"></label>
<span id="count">{{count}}</span> of {{count}} pictures</header>
<main>
{{cards}}
</main>
<script>
const main = document.querySelector("main"), cards = [...main.children];
const of = id => document.getElementById(id);
for (const c of cards) { c.numbers = JSON.parse(c.dataset.numbers); c.classes = JSON.parse(c.dataset.classes); }
function show() {
  const order = of("order").value, sign = of("rising").checked ? 1 : -1, kind = of("class").value;
  const byName = (a, b) => a.dataset.title < b.dataset.title ? -1 : a.dataset.title > b.dataset.title ? 1 : 0;
  const byNumber = (a, b) => order ? sign * ((a.numbers[order] || 0) - (b.numbers[order] || 0)) : 0;
  cards.sort((a, b) => byNumber(a, b) || byName(a, b));
  let count = 0;
  for (const c of cards) {
    c.hidden = (kind && !c.classes.includes(kind)) || !c.dataset.title.includes(of("name").value);
    count += !c.hidden;
    main.append(c);
  }
  of("count").textContent = count;
}
for (const id of ["order", "rising", "class", "name"]) of(id).addEventListener("input", show);
show();
</script></body></html>
"""
