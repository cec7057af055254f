"""A web page as a WAT file tells of it: its URL, its links, and the HTML that they would come from.

In: links in Common Crawl's own form (``{"path": "IMG@/src", "url": …, "alt": …}``). Out: a Page, and its HTML.
What does not belong here: WARC and WAT records (``wat_writer.py``), what becomes of a link (``layout.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import Literal

Link = Mapping[str, str]
Damage = Literal["", "cut", "overwritten"]
"""How a page's WAT record is spoilt: its JSON ends early, or bytes in the middle of it were overwritten with zeros."""

_ELEMENT = {
    "IMG@/src": '<img src="{url}"{rest}>',
    "A@/href": '<a href="{url}"{rest}>{text}</a>',
    "LINK@/href": '<link href="{url}"{rest}>',
}


@dataclass(frozen=True)
class Page:
    """One fetched page. ``base`` is the href of its ``<base>`` as written, relative or not; other than HTML has no links."""

    url: str
    links: tuple[Link, ...]
    date: datetime
    title: str = "Untitled"
    language: str = ""
    base: str | None = None
    head_links: tuple[Link, ...] = ()
    status: int = 200
    content_type: str = "text/html; charset=UTF-8"
    damage: Damage = ""

    @property
    def is_html(self) -> bool:
        return self.content_type.startswith(("text/html", "application/xhtml+xml"))


def image(url: str, alt: str | None = None, title: str | None = None) -> Link:
    """``<img src alt title>``; None: without the attribute."""
    return _with({"path": "IMG@/src", "url": url}, alt=alt, title=title)


def anchor(url: str, text: str | None = None, rel: str | None = None) -> Link:
    """``<a href rel>text</a>``."""
    return _with({"path": "A@/href", "url": url}, rel=rel, text=text)


def head_link(url: str, rel: str) -> Link:
    """``<link href rel>`` in the page's head."""
    return {"path": "LINK@/href", "url": url, "rel": rel}


def _with(link: dict[str, str], **attributes: str | None) -> Link:
    return link | {name: value for name, value in attributes.items() if value is not None}


def html(page: Page) -> bytes:
    """The page itself, as short as its links allow."""
    lang = f' lang="{page.language}"' if page.language else ""
    head = [f"<title>{escape(page.title)}</title>"]
    if page.base is not None:
        head.append(f'<base href="{escape(page.base)}">')
    head += [_element(link) for link in page.head_links]
    lines = [
        f'<!DOCTYPE html><html{lang}><head><meta charset="utf-8">',
        *head,
        "</head><body>",
        f"<h1>{escape(page.title)}</h1>",
        *[_element(link) for link in page.links],
        "</body></html>",
    ]
    return "\n".join(lines).encode()


def _element(link: Link) -> str:
    rest = "".join(f' {k}="{escape(v)}"' for k, v in link.items() if k not in ("path", "url", "text"))
    return _ELEMENT[link["path"]].format(url=escape(link["url"]), rest=rest, text=escape(link.get("text", "")))
