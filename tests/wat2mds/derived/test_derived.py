"""Release view and card of small published datasets: what they say is true, cheap to renew, harmless, and never in a publish's way."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.wat2mds.stages.conftest import WatFile, build_wat_file, set_values
from wat2mds import derived
from wat2mds.cli.main import run as command
from wat2mds.derived import release
from wat2mds.derived.deviations import deviations
from wat2mds.derived.pictures import stored_images
from wat2mds.derived.statistics import Statistics, of_rows
from wat2mds.derived.tables import profile_about, profile_sources
from wat2mds.errors import ConfigError, DataError
from wat2mds.manifest import Manifest
from wat2mds.pairs.captions import clean_caption
from wat2mds.schema import IMPORTED, LAION_VIEW, PAIRS
from wat2mds.settings import Settings, load_settings, profile_names, setting_keys
from wat2mds.stages import convert, import_pairs, publish, upload
from wat2mds.store import Layout, Store
from wat2mds.versions import Version, open_table, read_index, read_version

SETTINGS = load_settings("demo", ["filter.min_similarity=0.3", "upload.keep_images=true"], environment={})
STRICT = load_settings("demo", ["filter.min_similarity=0.34"], environment={})
THRESHOLD = load_settings("demo", environment={}).filter.min_similarity
HOSTILE = '"><script>alert(1)</script><img src=https://evil.example/x onerror=alert(2)> ](javascript:alert(3)) <!-- \u202e & 画'


def made(dataset: str, wat_file: str, settings: Settings = SETTINGS, **options: Any) -> tuple[WatFile, Manifest]:
    """A WAT file, converted and uploaded; different WAT files hold different pairs."""
    file = build_wat_file(dataset, wat_file, first=int(wat_file) * 1000, settings=settings, **options)
    converted = convert.run(file.samples, file.decisions, file.out("convert"), settings)
    return file, upload.run(converted, dataset, file.out("upload"), settings)


def dataset_at(root: str) -> str:
    return Layout(root, "small").dataset


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    return dataset_at((tmp_path / "root with space").as_uri())


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, bytes]]:
    """Two WAT files, of which the second came with a version of its own, and its images by uid."""
    url = dataset_at((tmp_path_factory.mktemp("published") / "store").as_uri())
    images = {}
    for wat_file, count in (("00000", 40), ("00001", 12)):
        file, manifest = made(url, wat_file, count=count)
        publish.run([manifest], url, SETTINGS)
        images |= file.images
    return url, images


def rows_of(url: str, version: Version) -> pa.Table:
    return open_table(url, version).to_pyarrow_table().sort_by("uid")


def snapshot(store: Store, prefix: str = "") -> dict[str, str]:
    """Every derived object by path: its hash."""
    kinds = ("release/", "versions/", "README.md", "card.html")
    return {
        entry.path: hashlib.sha256(store.read(entry.path)).hexdigest()
        for entry in store.walk(prefix)
        if entry.path.startswith(kinds)
        and not re.search(r"version\.json|^versions/(units|groups)/|/index\.\w+\.json", entry.path)
    }


# -- release view


def test_the_release_view_holds_the_tables_rows_under_laions_names(published: tuple[str, Any], tmp_path: Path) -> None:
    url, _ = published
    version = read_version(url)
    files = release.export(Store(url), version, tmp_path / "laion", rows_a_file=25)
    assert [pq.read_metadata(file).num_rows for file in files] == [25, version.samples - 25]
    found = pa.concat_tables([pq.read_table(file) for file in files]).sort_by("SAMPLE_ID")
    assert found.schema.names[:8] == ["SAMPLE_ID", "URL", "TEXT", "LICENSE", "NSFW", "similarity", "WIDTH", "HEIGHT"]
    assert {str(found.schema.field(name).type) for name in ("SAMPLE_ID", "hash", "WIDTH", "HEIGHT")} == {"int64"}
    assert str(found.schema.field("similarity").type) == "double"
    truth = rows_of(url, version).sort_by("laion_hash")
    for name, ours in LAION_VIEW.items():
        nothing = {"LICENSE": "?", "LANGUAGE": ""}.get(name)
        assert found[name].to_pylist() == [nothing if value is None else value for value in truth[ours].to_pylist()], name
    assert "?" in found["LICENSE"].to_pylist()
    with pytest.raises(ConfigError, match="name an empty folder"):
        release.export(Store(url), version, tmp_path / "laion")


def test_import_reads_the_release_view_back_as_the_same_pairs(published: tuple[str, Any], tmp_path: Path) -> None:
    url, _ = published
    version = read_version(url)
    (file,) = release.export(Store(url), version, tmp_path / "laion")
    done = import_pairs.run(str(file), (tmp_path / "out").as_uri(), SETTINGS, name="again", number="00000")
    assert (done.extra["layout"], done.extra["ignored_columns"]) == ("laion400m", [])
    assert not done.extra["sizes"]["swapped"], "WIDTH is the width"
    assert done.flows[0].drops == {}
    pairs = pq.read_table(done.fetch("pairs.parquet", tmp_path), columns=PAIRS.names()).sort_by("uid")
    assert pairs.num_rows == version.samples
    # The small dataset's captions did not go through extract: of those that it would have left as they are, everything is the same.
    truth = rows_of(url, version)
    truth = truth.filter(pa.array([caption == clean_caption(caption) for caption in truth["caption"].to_pylist()]))
    pairs = pairs.filter(pc.is_in(pairs["uid"], truth["uid"].combine_chunks()))
    assert pairs.num_rows > 20
    for name in ("uid", "laion_hash", "url", "url_normalized", "caption", "license"):
        assert pairs[name].to_pylist() == truth[name].to_pylist(), name
    stated = pq.read_table(done.fetch("imported.parquet", tmp_path), columns=IMPORTED.names()).sort_by("uid")
    stated = stated.filter(pc.is_in(stated["uid"], truth["uid"].combine_chunks()))
    for name, ours in (("width", "original_width"), ("height", "original_height"), ("similarity", "similarity")):
        assert stated[name].to_pylist() == truth[ours].to_pylist()
    assert stated["source_hash"].to_pylist() == truth["laion_hash"].to_pylist()


def test_the_same_rows_give_the_same_release_view_whenever_they_were_fetched(tmp_path: Path) -> None:
    parts: list[list[tuple[int, str]]] = []
    for root, second in (("one", 0), ("other", 50)):
        url = dataset_at((tmp_path / root).as_uri())
        later = {"samples": set_values("fetched_at", lambda at, s=second: None if at is None else at.replace(second=s))}
        publish.run([made(url, "00000", changes=later)[1]], url, SETTINGS)
        parts.append([(part.size, part.sha256) for part in release.read_parts(Store(url), read_version(url)).values()])
    assert parts[0] == parts[1]


# -- what it costs


def test_a_new_version_makes_the_parts_of_its_new_wat_files_only(dataset: str) -> None:
    store = Store(dataset)
    publish.run([made(dataset, "00000", count=20)[1]], dataset, SETTINGS)
    (part,) = release.read_parts(store, read_version(dataset)).values()
    store.delete_tree("release")  # what the first version's list names is not looked at again by a publish …
    publish.run([made(dataset, "00001")[1]], dataset, SETTINGS)
    assert sorted(release.read_parts(store, read_version(dataset))) == sorted(read_version(dataset).units)
    assert not store.exists(part.path)
    mended = derived.derive(dataset, read_version(dataset))  # … but by the command
    assert (mended.made, mended.parts, mended.rows) == (1, 2, 22)
    assert hashlib.sha256(store.read(part.path)).hexdigest() == part.sha256
    assert derived.derive(dataset, read_version(dataset)).made == 0
    store.write(part.path, b"x" * part.size)
    assert derived.derive(dataset, read_version(dataset), anew=True).made == 2
    assert hashlib.sha256(store.read(part.path)).hexdigest() == part.sha256


def statistics_of(url: str, number: int) -> Statistics:
    return Statistics.from_json(Store(url).read_json(f"versions/{number:06d}/statistics.json"))


def test_statistics_are_those_of_the_rows_also_when_a_wat_file_is_replaced(dataset: str) -> None:
    publish.run([made(dataset, "00000", count=30)[1]], dataset, SETTINGS)
    publish.run([made(dataset, "00001", count=9)[1]], dataset, SETTINGS)
    publish.run([made(dataset, "00000", STRICT, count=30, dropped=9)[1]], dataset, STRICT)
    for number in (1, 2, 3):
        found, rows = statistics_of(dataset, number), rows_of(dataset, read_version(dataset, number)).to_pylist()
        assert found.samples == len(rows) == read_version(dataset, number).samples
        assert found.count("host") == Counter(row["url"].split("/")[2] for row in rows)
        assert found.count("license_type") == Counter(row["license_type"] or "" for row in rows)
        assert found.count("caption_chars") == Counter(str(len(row["caption"])) for row in rows)
        assert found.count("similarity") == {"350": len(rows)}
        assert found.count("table1")["either 128"] == 0
        for side in (256, 512):
            assert found.count("table1")[f"both {side}"] == sum(
                row["original_width"] >= side and row["original_height"] >= side for row in rows
            )
        assert found.count("punsafe") == {"": len(rows)}
        assert [s["uid"] for s in found.shown] == sorted(row["uid"] for row in rows)[:24]
    # Summed from the version before, and from each WAT file's own: the same.
    Store(dataset).delete("versions/000001/statistics.json")
    before = statistics_of(dataset, 2)
    derived.derive(dataset, read_version(dataset, 2))
    assert statistics_of(dataset, 2) == before


def test_statistics_keep_the_most_frequent_hosts_when_there_are_too_many() -> None:
    total = Statistics()
    total.add(Statistics(3, {"host": Counter({"often.example.org": 3})}))
    total.add(Statistics(50_000, {"host": Counter({f"h{n:05}.example.org": 1 for n in range(50_000)})}))
    hosts = total.count("host")
    assert len(hosts) == 20_001
    assert hosts["often.example.org"] == 3
    assert sum(hosts.values()) == 50_003
    assert total.quantile("similarity", 0.5) is None


# -- the card


class Elements(HTMLParser):
    """(tag, attributes) of every element, and the page's text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_what_the_card_says(published: tuple[str, dict[str, bytes]]) -> None:
    url, images = published
    store = Store(url)
    version = read_version(url)
    page = store.read("card.html").decode()
    assert page == store.read(derived.card_path(version.number)).decode()
    elements = Elements(page)
    text = elements.text
    for said in (
        "Version 2",
        f"{version.samples}samples",
        "profile demo",
        f"0.3set for this version; the profile says {THRESHOLD}",
    ):
        assert said in text, said
    for said in (
        "LAION's statistics call a sample unsafe above 0.5",
        "low_similarity",
        "http_404",
        "wat2mds-tiny (tiny) in place of",
    ):
        assert said in text, said
    figures = [attributes["aria-label"] for tag, attributes in elements.found if tag == "svg"]
    assert {"From records to pages with images", "From links to published samples", "Drop reasons", "CLIP similarity"} <= set(
        figures
    )
    assert {"Caption length", "Image sizes", "File sizes", "Languages", "Licences", "Hosts"} <= set(figures)
    assert "Aesthetic score" not in figures, "no head gave it"
    # The funnel's bars state the flows' own counts.
    entered = sum(flow["entered"] for unit in version.units.values() for flow in unit.flows if flow["source"] == "links")
    funnel = ElementTree.fromstring(store.read("versions/000002/card/funnel.svg"))
    words = ["".join(e.itertext()) for e in funnel.iter("{http://www.w3.org/2000/svg}text")]
    assert f"{entered}" in words
    assert f"{version.samples} ({version.samples / entered:.1%})" in words
    # Samples are the stored images, read without streaming.
    shown = stored_images(store, read_index(url, version), statistics_of(url, 2).shown)
    assert len(shown) == min(24, version.samples)
    assert all(image == images[sample["uid"]] for sample, image in shown)
    with Image.open(store.local / "versions/000002/card/samples.jpg") as sheet:  # type: ignore[operator]
        sheet.load()
    # The Markdown's pictures are there, from the version's folder and from the dataset's.
    for name, folder in (("README.md", ""), ("versions/000002/card/README.md", "versions/000002/card/")):
        pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", store.read(name).decode())
        assert len(pictures) == len(figures) + 1
        for picture in pictures:
            assert store.exists(folder + picture), picture


def test_the_cards_snippets_work(published: tuple[str, Any], tmp_path: Path) -> None:
    url, _ = published
    text = Store(url).read("README.md").decode()
    exact, newest = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert 'local="/tmp/cache"' in newest
    for snippet in (exact, newest.replace('"/tmp/cache"', repr(str(tmp_path / "cache")))):
        names: dict[str, Any] = {}
        exec(snippet, names)
        assert len(names["dataset"]) == read_version(url).samples
        del names


def test_a_hostile_caption_is_text(dataset: str) -> None:
    changes = {"pairs": set_values("caption", lambda caption: HOSTILE + caption)}
    publish.run([made(dataset, "00000", changes=changes)[1]], dataset, SETTINGS)
    store = Store(dataset)
    page = store.read("card.html").decode()
    elements = Elements(page)
    assert HOSTILE in elements.text
    tags = {tag for tag, _ in elements.found}
    assert not tags & {"script", "a", "link", "iframe", "object", "form", "base"}
    for tag, attributes in elements.found:
        assert not [name for name in attributes if name.startswith("on") or name in ("href", "srcset", "style")], tag
        assert (attributes.get("src") or "data:").startswith("data:"), tag
    (policy,) = [a["content"] for _, a in elements.found if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert not re.search(r"url\(|@import|//(?!www\.w3\.org/2000/svg)\w", page.replace(HOSTILE, "").split("</style>")[0])
    markdown = store.read("README.md").decode()
    assert "alert" not in markdown
    for entry in store.walk("versions/000001/card"):
        if entry.path.endswith(".svg"):
            ElementTree.fromstring(store.read(entry.path))


def test_an_unsafe_sample_is_not_shown(dataset: str) -> None:
    manifest = made(dataset, "00001", count=6, failed=0, dropped=0)[1]
    publish.run([manifest], dataset, SETTINGS)
    rows = rows_of(dataset, read_version(dataset))
    marked = rows.set_column(
        rows.column_names.index("punsafe"), "punsafe", pa.array([0.9, 0.1, None, 0.5, 0.51, 0.0], pa.float32())
    )
    tagged = marked.set_column(
        marked.column_names.index("nsfw"), "nsfw", pa.array([None, "NSFW", None, "UNLIKELY", None, "UNSURE"])
    )
    uids = rows["uid"].to_pylist()
    assert [sample["uid"] for sample in of_rows(tagged).shown] == [uids[2], uids[3]]


def test_a_version_without_samples_has_a_card(dataset: str) -> None:
    publish.run([made(dataset, "00000", count=3, dropped=3, failed=0)[1]], dataset, SETTINGS)
    page = Elements(Store(dataset).read("card.html").decode())
    assert "0samples" in page.text
    assert not [tag for tag, _ in page.found if tag == "img"]


@pytest.mark.parametrize("profile", profile_names())
def test_every_profile_states_its_sources(profile: str) -> None:
    sources = profile_sources(profile)
    assert set(sources) <= set(setting_keys())
    assert re.search("LAION|DataComp", profile_about(profile))
    assert {"extract.min_caption_chars", "download.image_size", "filter.min_similarity"} & set(
        sources
    ) or profile == "relaion_safe"
    assert sources.get("filter.max_punsafe", "LAION").count("LAION") or profile == "relaion_safe"


def test_what_differs_is_said_of_the_settings_at_hand() -> None:
    def said(**changes: dict[str, Any]) -> str:
        return json.dumps(deviations(Settings.model_validate({"profile": "laion5b", **changes}), Statistics()))

    assert "in place of OpenAI" not in said()
    assert "only if these are OpenAI's" in said(
        filter={"clip_model": "ViT-B-32-quickgelu", "clip_pretrained": "/secret/place/b32.pt"}
    )
    assert "/secret/place" not in said(filter={"clip_model": "ViT-B-32-quickgelu", "clip_pretrained": "/secret/place/b32.pt"})
    assert "Obeyed: robots.txt, X-Robots-Tag, tdm-reservation" in said()
    assert "Obeyed: X-Robots-Tag," in said(download={"obey_robots_txt": False, "obey_tdm_reservation": False})
    assert "error rate of 1e-06" in said(dedup={"exact": False})
    assert "Kept: en, de." in said(filter={"languages": ["en", "de"]})


# -- never in a publish's way


def test_a_card_that_cannot_be_made_loses_no_publish(dataset: str, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(dataset)
    store.write("versions/000001/card", b"where a folder should be")
    manifest = made(dataset, "00000")[1]
    result = publish.run([manifest], dataset, SETTINGS)
    assert (result.version.number, store.exists("index.json")) == (1, True)
    assert "wat2mds derive --version 1" in caplog.text
    assert not store.exists("card.html")
    store.delete("versions/000001/card")
    assert publish.run([manifest], dataset, SETTINGS).done_before, "a retried publish completes what is derived"
    assert store.exists("card.html")
    assert store.exists(derived.card_path(1))


@pytest.mark.parametrize("damage", [b"", b"\xff" * 4000, b"\0" * 4000, None])
def test_images_that_cannot_be_read_are_left_out(dataset: str, damage: bytes | None) -> None:
    publish.run([made(dataset, "00000", count=6, failed=1, dropped=1)[1]], dataset, SETTINGS)
    store, version = Store(dataset), read_version(dataset)
    before = Elements(store.read("card.html").decode())
    assert len([tag for tag, _ in before.found if tag == "img"]) == 4
    (path,) = [entry.path for entry in store.walk("shards") if entry.path.endswith(".mds")]
    shard = store.read(path)
    store.write(path, damage if damage is not None else shard[: len(shard) * 3 // 4])
    derived.derive(dataset, version)
    after = Elements(store.read("card.html").decode())
    assert len([tag for tag, _ in after.found if tag == "img"]) == (0 if damage is not None else 2)
    assert "4samples" in after.text


class Killed(BaseException):
    """Ends a process wherever it stands: nobody catches it."""


def test_killed_between_any_two_writes_then_made_whole(dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(dataset)
    publish.run([made(dataset, "00000", count=6, failed=1, dropped=1)[1]], dataset, SETTINGS)
    publish.run([made(dataset, "00001", count=6, failed=1, dropped=1)[1]], dataset, SETTINGS)
    whole = snapshot(store)
    version = read_version(dataset)
    write: Callable[..., None] = Store.write
    for survived in range(100):
        for path in whole:
            store.delete(path)
        left = [survived]

        def dying(self: Store, path: str, data: bytes, left: list[int] = left) -> None:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            write(self, path, data)

        monkeypatch.setattr(Store, "write", dying)
        try:
            publish.refresh_derived(dataset)
            break
        except Killed:
            pass
        finally:
            monkeypatch.setattr(Store, "write", write)
        if store.exists(release.list_path(2)):
            for part in release.read_parts(store, version).values():
                assert hashlib.sha256(store.read(part.path)).hexdigest() == part.sha256
        publish.refresh_derived(dataset)
        assert snapshot(store).items() >= {p: h for p, h in whole.items() if not p.startswith("versions/000001")}.items()
    assert 15 < survived < 99, "the last one ended by itself"


def test_commands(published: tuple[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url, _ = published
    root = url.removesuffix("/datasets/small")

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        code = command([*arguments, "--root", root, "--dataset", "small"])
        out = capsys.readouterr().out.splitlines()
        return code, json.loads(out[-1]) if out else {}

    Store(url).delete("card.html")
    Store(url).write("index.json", b"stale")
    code, said = run("derive")
    assert (code, said["made"], said["parts"]) == (0, 0, 2)
    assert Store(url).exists("card.html")
    assert Store(url).read("index.json") == read_index(url, read_version(url))
    newest = Store(url).read("card.html")
    code, said = run("derive", "--version", "1", "--anew")
    assert (code, said["made"], said["rows"]) == (0, 1, 35)
    assert Store(url).read("card.html") == newest, "an older version's card is in its own folder only"
    code, said = run("release", "--version", "1", "--to", str(tmp_path / "laion"))
    assert (code, said["rows"], said["files"]) == (0, 35, 1)
    assert run("release", "--to", str(tmp_path / "laion"))[0] == 78


def test_on_s3(s3_root: str) -> None:
    url = dataset_at(s3_root)
    publish.run([made(url, "00000")[1]], url, SETTINGS)
    assert Store(url).read("card.html").startswith(b"<!doctype html>")
    assert len(release.read_parts(Store(url), read_version(url))) == 1
    Store(url).delete(release.list_path(1))
    with pytest.raises(DataError, match="no release view yet: make it with `wat2mds derive --version 1`"):
        release.read_parts(Store(url), read_version(url))
