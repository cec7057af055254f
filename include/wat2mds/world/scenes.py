"""The sorts of pages that the demo world holds, each with the fate of all its links.

In: a WAT file in the making, the web that its images are served from, a key that makes URLs unique. Out: pages laid out, answers
added. Guaranteed: a link is wrong in at most one way, so that the order of a stage's tests cannot matter.
What does not belong here: which scenes stand in which WAT file (``demo_world.py``).

Captions: those of ``draw.py`` describe their picture in English. The tiny CLIP knows their words alone and has learnt to overlook up
to three unknown ones around them, so captions in other languages come in two kinds: a foreign word or two before the English ones
(kept), and wholly foreign ones, which say nothing to it (low_similarity). Mismatched captions differ from the picture in everything.

Hosts lie below example.com, .net, .org and .edu, which IANA keeps (RFC 2606) and which have a public suffix: should anybody ever run
the demo without its resolver, nobody else's server is asked for anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, count

import numpy as np

from wat2mds.drops import DropReason
from wat2mds.world import answers
from wat2mds.world.draw import Mark, Picture, all_pictures, caption, marked
from wat2mds.world.layout import WatLayout
from wat2mds.world.origin import Answer, AnswerTable
from wat2mds.world.page import anchor, image

# Sides of the pictures, pixels; none over twice as long as the other, as draw.py asks.
_SIZES = ((320, 320), (384, 320), (360, 288), (320, 384), (448, 336), (512, 448), (300, 400))
_STOCK_A_PAGE = 40
_CC_BY_SA = "https://creativecommons.org/licenses/by-sa/4.0/"
_CC_BY = "http://creativecommons.org/licenses/by/3.0/de/"
_CC_ZERO = "https://creativecommons.org/publicdomain/zero/1.0/"

# Language, site, and one or two words that stand before the caption.
GALLERIES = {
    "de": ("galerie.alpen.example.org", "Galerie", "Abbildung"),
    "fr": ("photos.atelier.example.net", "Galerie de photos", "Image montrant"),
    "es": ("fotos.mercado.example.com", "Fotos del mercado", "Imagen"),
    "ru": ("foto.gorod.example.org", "Фотографии", "Рисунок"),
    "ja": ("e.bijutsu.example.net", "絵画", "図版"),
    "en": ("gallery.harbour.example.com", "Gallery", ""),
}
FOREIGN_CAPTIONS = (
    "Drei Kinder spielen hinter dem alten Bauernhaus",
    "Une rue étroite sous la pluie du soir",
    "Mujer vendiendo naranjas frente al ayuntamiento",
    "Старый мост через реку зимой",
    "雨の日の小さな駅",
)


class Web:
    """The demo's web in the making: answers by URL, and pictures that are each shown once, as long as there are any."""

    def __init__(self, seed: int) -> None:
        self.table = AnswerTable()
        pictures = all_pictures()
        self._rng = np.random.default_rng(seed)
        first = self._rng.permutation(len(pictures))
        # Where a world wants more than there are, they come again, drawn otherwise.
        again = (i for _ in count(1) for i in self._rng.permutation(len(pictures)))
        self._pictures = (pictures[i] for i in chain(first, again))
        self._numbers = iter(range(1_000_000))
        for host, text in _ROBOTS.items():
            self.table.add(f"https://{host}/robots.txt", answers.robots_txt(text))

    def next_picture(self, mark: Mark = "") -> tuple[Picture, int]:
        """A picture not yet used, and a seed to draw it with."""
        return marked(next(self._pictures), mark), next(self._numbers)

    def show(
        self, url: str, kind: answers.Format = "JPEG", *headers: tuple[str, str], mark: Mark = "", rotated: bool = False
    ) -> str:
        """Draw a new picture at a URL; returns its caption."""
        what, seed = self.next_picture(mark)
        size = _SIZES[int(self._rng.integers(len(_SIZES)))]
        self.table.add(url, answers.picture(what, size, seed, kind, *headers, rotated=rotated))
        return caption(what)

    def mismatch(self, url: str) -> str:
        """Draw a picture at a URL; returns the caption of another one, which differs in everything but perhaps the size."""
        what, seed = self.next_picture()
        self.table.add(url, answers.picture(what, _SIZES[0], seed))
        fields = ("shape", "colour", "count", "background", "position")
        while True:
            other, _ = self.next_picture()
            swapped = {other.colour, other.background} & {what.colour, what.background}
            if not swapped and all(getattr(what, f) != getattr(other, f) for f in fields):
                return caption(other)

    def answer(self, url: str, answer: Answer) -> None:
        self.table.add(url, answer)


_ROBOTS = {
    "club.members.example.com": "User-agent: *\nDisallow: /members/\nAllow: /\n",
    "cdn.shop.example.com": "User-agent: examplebot\nDisallow: /\n\nUser-agent: *\nDisallow:\n",
}


def shop(wat: WatLayout, web: Web, key: str) -> None:
    """A product page: root-relative and protocol-relative URLs, a CDN, a logo, a spacer, the same image twice."""
    host = "https://www.shop.example.com"
    page = wat.page(f"{host}/products/{key}/index.html", f"Product {key}")
    page.link("/", "Home")
    page.image("/static/logo.svg", "Example shop's logo", DropReason.UNWANTED_TYPE)
    page.image("/static/spacer.gif", None, DropReason.NO_CAPTION)
    first = f"{host}/media/{key}/front.jpg"
    says = web.show(first)
    page.image(f"/media/{key}/front.jpg", says, url=first, title="Zoom")
    cdn = f"https://cdn.shop.example.com/p/{key}/side.jpg?w=480&fit=crop"
    says_too = web.show(cdn)
    page.image(f"//cdn.shop.example.com/p/{key}/side.jpg?w=480&fit=crop", says_too, url=cdn)
    page.image(f"../../media/{key}/front.jpg", says, DropReason.DUPLICATE_IN_WAT, url=first)
    page.image(f"/media/{key}/cart.png", "Buy", DropReason.SHORT_CAPTION)
    page.close()


def gallery(wat: WatLayout, web: Web, key: str, language: str, count: int) -> None:
    """A page of pictures beside it, with captions that begin in its language."""
    host, title, word = GALLERIES[language]
    page = wat.page(f"https://{host}/{language}/{key}/", title, language)
    for number in range(count):
        url = f"https://{host}/{language}/{key}/img/{number}.jpg"
        page.image(f"img/{number}.jpg", f"{word} {web.show(url)}".strip(), url=url)
        page.link(f"detail-{number}.html", title)
    page.close()


def blog_with_base(wat: WatLayout, web: Web, key: str, absolute: bool) -> None:
    """A page whose ``<base>`` moves its relative URLs: to another host, or within its own."""
    host = "https://blog.alpen.example.org"
    root = "https://media.alpen.example.org" if absolute else host
    base = f"{root}/2024/{key}/" if absolute else f"/2024/{key}/"
    page = wat.page(f"{host}/posts/{key}.html", "Unterwegs", "de", base)
    for href, url in (
        ("tal.jpg", f"{root}/2024/{key}/tal.jpg"),
        (f"../../2023/{key}-gipfel.jpg", f"{root}/2023/{key}-gipfel.jpg"),
        (f"/archiv/{key}.jpg", f"{root}/archiv/{key}.jpg"),
    ):
        page.image(href, web.show(url), url=url)
    page.close()


def encyclopedia(wat: WatLayout, web: Web, key: str, license_link: str) -> None:
    """A page under a Creative Commons licence: a link with rel=license, one in the head, or a bare link in the text."""
    host = "https://commons.wissen.example.edu"
    page = wat.page(f"{host}/wiki/{key}", f"Article {key}")
    if license_link == "anchor":
        page.link(_CC_BY, "another work's licence")
        page.link(_CC_BY_SA, "CC BY-SA 4.0", rel="license")
    elif license_link == "head":
        page.license(_CC_ZERO)
    else:
        page.link(_CC_BY, "CC BY 3.0")
    for number in range(2):
        url = f"https://upload.wissen.example.edu/{key}/{number}.jpg"
        page.image(url, web.show(url))
    page.close()


def forum(wat: WatLayout, web: Web, key: str) -> None:
    """What people post: missing, empty and short alts, and URLs that lead nowhere public."""
    host = "http://forum.hobby.example.net"
    page = wat.page(f"{host}/thread.php?id={key}", "Re: my pictures")
    for number, alt in enumerate((None, "", "   ", "\u200b")):
        page.image(f"/avatars/{key}-{number}.png", alt, DropReason.NO_CAPTION)
    for number, alt in enumerate(("pic", " ok ", "<3", "12")):
        page.image(f"/smilies/{key}-{number}.png", alt, DropReason.SHORT_CAPTION)
    for href, fate in (
        ("data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA=", DropReason.DATA_URL),
        ("javascript:void(0)", DropReason.DATA_URL),
        ("/favicon.ico", DropReason.UNWANTED_TYPE),
        ("/badge.SVG?v=2", DropReason.UNWANTED_TYPE),
        ("http://192.168.0.10/camera.jpg", DropReason.PRIVATE_HOST),
        ("http://localhost/holiday.jpg", DropReason.PRIVATE_HOST),
        ("http://intranet/share/holiday.jpg", DropReason.PRIVATE_HOST),
        ("http://[2001:db8::1]/holiday.jpg", DropReason.PRIVATE_HOST),
        ("http://nas.local/holiday.jpg", DropReason.PRIVATE_HOST),
        ("https://img.hobby.example.net:port/holiday.jpg", DropReason.BAD_URL),
        ("https://[img.hobby.example.net/holiday.jpg", DropReason.BAD_URL),
        (f"/resize?from={'x' * 2100}", DropReason.LONG_URL),
    ):
        page.image(href, "a picture from my last holiday", fate)
    page.image(f"/long/{key}.jpg", "buy cheap pictures " * 120, DropReason.LONG_CAPTION)
    url = f"{host}/attachments/{key}.jpg"
    says = web.show(url)
    page.image(f"attachments/{key}.jpg", f"\n   {says.replace(' ', '  ', 2)}\t", url=url, caption=says)
    url = f"{host}/attachments/{key}-2.jpg"
    says = web.show(url)
    page.image(url, f"photo &amp; drawing {says}", caption=f"photo & drawing {says}")
    page.close()


def odd_urls(wat: WatLayout, web: Web, key: str) -> None:
    """URLs as people write them, and other spellings of the same address, which are duplicates."""
    page = wat.page(f"https://www.buecher.example.org/{key}", "Bücher", "de")
    for href, same in (
        (f"https://bücher.example.org/{key}/titel.jpg", f"https://xn--bcher-kva.example.org/{key}/titel.jpg"),
        (f"https://www.buecher.example.org/{key}/grün.jpg", f"https://www.buecher.example.org/{key}/gr%C3%BCn.jpg"),
        (f"https://www.buecher.example.org/{key}/my cover.jpg", f"https://www.buecher.example.org/{key}/my%20cover.jpg"),
        (f"https://www.buecher.example.org/{key}/a.jpg", f"https://WWW.Buecher.Example.org:443/{key}/%61.jpg#large"),
        (f"https://www.buecher.example.org/{key}/show?id=7&amp;s=2", f"https://www.buecher.example.org/{key}/show?id=7&s=2"),
    ):
        url = href.replace("&amp;", "&")
        says = web.show(url)
        page.image(href, says, url=url)
        page.image(same, says, DropReason.DUPLICATE_IN_WAT)
    page.close()


def formats(wat: WatLayout, web: Web, key: str) -> None:
    """Formats that are taken and one that is not, whatever the Content-Type or the name says."""
    host = "https://files.labor.example.edu"
    page = wat.page(f"{host}/{key}/", "File formats")
    page.image(f"{host}/{key}/a.png", web.show(f"{host}/{key}/a.png", "PNG"))
    page.image(f"{host}/{key}/b.webp", web.show(f"{host}/{key}/b.webp", "WEBP"))
    page.image(f"{host}/{key}/c.jpg", web.show(f"{host}/{key}/c.jpg", "PNG"))
    page.image(f"{host}/{key}/download", web.show(f"{host}/{key}/download"))
    page.image(f"{host}/{key}/camera.jpeg", web.show(f"{host}/{key}/camera.jpeg", rotated=True))
    page.image(f"{host}/{key}/d.gif", web.show(f"{host}/{key}/d.gif", "GIF"), DropReason.NOT_IMAGE)
    page.close()


def dead_links(wat: WatLayout, web: Web, key: str) -> None:
    """Links that have gone, moved, or lead where nobody may be sent."""
    host = "http://archive.reise.example.org"
    page = wat.page(f"{host}/{key}.html", "Old travel notes")
    page.image(f"{host}/{key}/gone.jpg", "a lighthouse at the coast", DropReason.HTTP_404)
    page.image(f"{host}/{key}/gone.jpg", "a lighthouse at the coast", DropReason.DUPLICATE_IN_WAT)
    for status, fate in ((410, DropReason.HTTP_404), (403, DropReason.HTTP_403), (500, DropReason.HTTP_5XX)):
        web.answer(f"{host}/{key}/{status}.jpg", answers.refusal(status))
        page.image(f"/{key}/{status}.jpg", "a lighthouse at the coast", fate, url=f"{host}/{key}/{status}.jpg")
    moved = f"https://cdn.shop.example.com/moved/{key}.jpg"
    page.image(f"{host}/{key}/moved.jpg", web.show(moved))
    web.answer(f"{host}/{key}/moved.jpg", answers.redirect(moved))
    page.image(f"{host}/{key}/renamed.jpg", web.show(f"{host}/{key}/new name.jpg"))
    web.answer(f"{host}/{key}/renamed.jpg", answers.redirect("new%20name.jpg", 301))
    web.answer(f"{host}/{key}/loop.jpg", answers.redirect(f"/{key}/loop.jpg"))
    page.image(f"{host}/{key}/loop.jpg", "round and round", DropReason.REDIRECTS)
    # Literal addresses, and a name that the resolver of a world gives a private address (stages/download/addresses.py).
    for number, to in enumerate(
        ("http://10.0.0.5/admin.jpg", "http://169.254.169.254/latest/", "http://router.private.test/x.jpg")
    ):
        web.answer(f"{host}/{key}/inside-{number}.jpg", answers.redirect(to))
        page.image(f"{host}/{key}/inside-{number}.jpg", "a door marked private", DropReason.PRIVATE_ADDRESS)
    page.image(f"http://archive.reise.example.org:8081/{key}.jpg", "a harbour by night", DropReason.BAD_PORT)
    page.close()


def opt_outs(wat: WatLayout, web: Web, key: str) -> None:
    """Those who say no, and beside each one who does not."""
    page = wat.page(f"https://www.members.example.com/{key}", "Pictures of our members")
    club, artist, press = (f"https://{h}.example.com" for h in ("club.members", "artists.studio", "press.zeitung"))
    for url, headers, fate in (
        (f"{club}/members/{key}.jpg", (), DropReason.ROBOTS),
        (f"{club}/public/{key}.jpg", (), None),
        (f"{artist}/{key}/1.jpg", (("X-Robots-Tag", "noai"),), DropReason.X_ROBOTS),
        (f"{artist}/{key}/2.jpg", (("X-Robots-Tag", "noindex, noimageai"),), DropReason.X_ROBOTS),
        (f"{artist}/{key}/3.jpg", (("X-Robots-Tag", "nofollow"), ("X-Robots-Tag", "otherbot: noai")), None),
        (f"{press}/{key}/1.jpg", (("tdm-reservation", "1"), ("tdm-policy", f"{press}/policy.json")), DropReason.TDM_RESERVED),
        (f"{press}/{key}/2.jpg", (("tdm-reservation", "0"),), None),
    ):
        page.image(url, web.show(url, "JPEG", *headers), fate)
    page.close()


def bad_images(wat: WatLayout, web: Web, key: str) -> None:
    """Answers that are no picture to keep: too small, too large, damaged, or something else."""
    host = "https://old.museum.example.edu"
    page = wat.page(f"{host}/{key}/", "The old collection")
    for name, answer, fate in (
        ("icon.jpg", answers.thumbnail(*web.next_picture()), DropReason.TOO_SMALL_BYTES),
        ("nothing.jpg", answers.empty(), DropReason.TOO_SMALL_BYTES),
        ("poster.png", answers.huge(), DropReason.TOO_MANY_PIXELS),
        ("scan.png", answers.broken_png(*web.next_picture()), DropReason.DECODE),
        ("photo.jpg", answers.headless_jpeg(*web.next_picture()), DropReason.DECODE),
        ("login.jpg", answers.page_as_jpeg(), DropReason.NOT_IMAGE),
    ):
        web.answer(f"{host}/{key}/{name}", answer)
        page.image(name, "an object of the collection", fate, url=f"{host}/{key}/{name}")
    page.close()


def judged(wat: WatLayout, web: Web, key: str) -> None:
    """What filter drops: captions of other pictures, warning borders (the demo's unsafe), watermarks; and one of each kept."""
    host = "https://news.portal.example.com"
    page = wat.page(f"{host}/{key}", "News in pictures")
    for number in range(3):
        url = f"{host}/{key}/stock-{number}.jpg"
        page.image(url, web.mismatch(url), DropReason.LOW_SIMILARITY)
    for number in range(2):
        url = f"{host}/{key}/scene-{number}.jpg"
        page.image(url, web.show(url, mark="warning"), DropReason.UNSAFE)
        url = f"{host}/{key}/preview-{number}.jpg"
        page.image(url, web.show(url, mark="watermark"), DropReason.WATERMARKED)
    page.image(f"{host}/{key}/own.jpg", web.show(f"{host}/{key}/own.jpg"))
    page.close()


def stock(wat: WatLayout, web: Web, right: int, wrong: int) -> None:
    """Pages of many pictures, those with their own captions before those with another picture's."""
    host = "https://stock.images.example.net"
    for start in range(0, right + wrong, _STOCK_A_PAGE):
        page = wat.page(f"{host}/page/{start // _STOCK_A_PAGE}", "Pictures for every purpose")
        for number in range(start, min(start + _STOCK_A_PAGE, right + wrong)):
            url = f"{host}/{number:06d}.jpg"
            if number < right:
                page.image(url, web.show(url))
            else:
                page.image(url, web.mismatch(url), DropReason.LOW_SIMILARITY)
        page.close()


def foreign_captions(wat: WatLayout, web: Web, key: str) -> None:
    """Captions wholly in other languages, of which the tiny CLIP knows no word."""
    host = "https://welt.reise.example.org"
    page = wat.page(f"{host}/{key}", "Weltreise", "de")
    for number, text in enumerate(FOREIGN_CAPTIONS):
        url = f"{host}/{key}/{number}.jpg"
        web.show(url)
        page.image(url, text, DropReason.LOW_SIMILARITY)
    page.close()


def copies(wat: WatLayout, key: str, *sources: tuple[Iterable[tuple[str, str]], DropReason]) -> None:
    """A page that shows again what others show."""
    page = wat.page(f"https://collector.links.example.net/{key}", "Seen elsewhere")
    for pairs, fate in sources:
        for url, says in pairs:
            page.image(url, says, fate)
    page.close()


def text_only(wat: WatLayout, key: str) -> None:
    links = (anchor("/imprint.html", "Imprint"), anchor("mailto:me@words.example.com", "Write to me"))
    wat.page_without_images(f"https://words.example.com/{key}.html", "Words without pictures", *links)


def damaged(wat: WatLayout, key: str, how: str) -> None:
    shown = image(f"/{key}.jpg", "a picture that nobody will hear of")
    wat.damaged_page(f"https://words.example.com/{key}/broken.html", "cut" if how == "cut" else "overwritten", shown, shown)
