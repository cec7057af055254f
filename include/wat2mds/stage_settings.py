"""Every stage's settings, typed: what each means, its unit, range and default, and the source of a default that somebody published.

Fields marked ``_how`` say how a stage runs, not what it makes: they are left out of the fingerprint, so that a changed thread
count redoes nothing. Fields marked ``_decide`` matter to filter's decisions but not to its scores. What does not belong here: where
values come from (``settings.py``).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

_how: JsonDict = {"fingerprint": "how"}
_decide: JsonDict = {"fingerprint": "decide"}
Share = Annotated[float, Field(ge=0, le=1)]
# The largest difference that is let pass; empty: any is.
Bound = Annotated[float | None, Field(ge=0, le=2)]
# Those of streaming's (base/hashing.py) that are worth their cost.
ShardHash = Literal["sha1", "sha256", "md5", "blake2b", "xxh32", "xxh64", "xxh128", "xxh3_64", "xxh3_128"]

# Settings of filter that name a head or an image model.
HEAD_SETTINGS = ("safety_head", "watermark_head", "toxicity_head", "aesthetic_head")


class Group(BaseModel):
    """One stage's settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    def fingerprint(self, *, decisions: bool = True) -> dict[str, Any]:
        """The values that decide what the stage makes, JSON-ready."""
        leave_out = {"how"} if decisions else {"how", "decide"}
        fields = type(self).model_fields
        kept = [n for n, f in fields.items() if _mark(f.json_schema_extra) not in leave_out]
        return self.model_dump(mode="json", include=set(kept))

    def run_as(self, other: Group) -> Self:
        """These values, with ``other``'s of the fields that say how a stage runs."""
        how = [n for n, f in type(self).model_fields.items() if _mark(f.json_schema_extra) == "how"]
        return self.model_copy(update={name: getattr(other, name) for name in how})


def _mark(extra: Any) -> str | None:
    return extra.get("fingerprint") if isinstance(extra, dict) else None


class ExtractSettings(Group):
    min_caption_chars: int = Field(5, ge=1, description="shortest caption, characters after cleaning")
    max_caption_chars: int = Field(2000, ge=5, description="longest caption, characters after cleaning")
    max_url_chars: int = Field(2000, ge=20, description="longest image URL, characters")
    unwanted_suffixes: tuple[str, ...] = Field(
        (".svg", ".svgz", ".ico", ".cur", ".pdf", ".swf", ".mp4", ".webm"),
        description="path endings that are never downloaded",
    )
    title_fallback: bool = Field(False, description="take the title where an image has no alt text; recorded in caption_source")
    compatibility: Literal["cc2dataset"] | None = Field(
        None,
        description="cc2dataset: its 1.5.0's pairs, alt and URL as found, none of the rules above; to compare with, not to publish",
    )
    max_bad_share: Share = Field(0.05, description="largest share of damaged records or lost bytes before the WAT file fails")


class ImportSettings(Group):
    """What a pair is, and which URLs are taken, is extract's to say."""

    min_similarity: float | None = Field(
        None, ge=-1, le=1, description="least similarity that the list itself states; empty: whatever it states"
    )
    sizes: Literal["auto", "as_named", "swapped"] = Field(
        "auto", description="whether the list's width and height are swapped, as in LAION's early releases; auto: found out"
    )
    hub: str = Field("https://huggingface.co", description="where hf: URLs lead to", json_schema_extra=_how)


class DedupSettings(Group):
    bins: int = Field(256, ge=1, le=4096, description="bins of a new dataset's ledger", json_schema_extra=_how)
    false_positive_rate: float = Field(
        1e-6, gt=0, lt=0.1, description="error rate of a new ledger's bloom filters, whatever their size", json_schema_extra=_how
    )
    exact: bool = Field(True, description="check the filter's positives against the stored claims: no pair is lost to chance")


class DownloadSettings(Group):
    image_size: int = Field(256, ge=16, le=4096, description="target side, pixels (img2dataset: image_size)")
    resize_mode: Literal["border", "keep_ratio", "keep_ratio_largest", "center_crop", "no"] = Field(
        "border", description="how images are brought to image_size (img2dataset: resize_mode)"
    )
    resize_only_if_bigger: bool = Field(False, description="leave smaller images at their size")
    reduced_decoding: bool = Field(True, description="decode colour JPEGs reduced, from 4 × image_size on; false: as img2dataset")
    encode_format: Literal["jpg", "png", "webp"] = Field("jpg", description="format of stored images")
    encode_quality: int = Field(95, ge=0, le=100, description="JPEG or WebP quality, or PNG compression level 0-9")
    skip_reencode: bool = Field(False, description="keep the original bytes where no resize is needed")
    min_bytes: int = Field(5000, ge=0, description="fewest bytes of the original")
    max_bytes: int = Field(20_000_000, ge=1000, description="most bytes of the original, counted while reading")
    max_pixels: int = Field(89_478_484, ge=1, description="largest width × height, read from the header before decoding")
    min_image_size: int = Field(0, ge=0, description="shortest side of the original, pixels")
    max_aspect_ratio: float | None = Field(None, ge=1, description="largest ratio of sides; empty: no limit")
    formats: tuple[Literal["JPEG", "PNG", "WEBP", "GIF", "AVIF"], ...] = Field(
        ("JPEG", "PNG", "WEBP"), min_length=1, description="formats accepted, found from the bytes: also GIF, AVIF"
    )
    animated: Literal["first_frame", "drop"] = Field("first_frame", description="what is made of images with several frames")
    icc: Literal["drop", "apply"] = Field("drop", description="colour profiles: left out (as img2dataset), or applied: sRGB")
    pdq: bool = Field(True, description="PDQ hash of each stored image, which block lists of kind pdq are compared with")
    allowed_ports: tuple[int, ...] = Field((80, 443), description="ports that are connected to")
    max_redirects: int = Field(5, ge=0, le=20, description="redirects followed for one image")
    obey_robots_txt: bool = Field(True, description="ask each host's robots.txt (RFC 9309)")
    obey_x_robots_tag: bool = Field(True, description="drop on X-Robots-Tag noai, noimageai, noindex, noimageindex")
    obey_tdm_reservation: bool = Field(True, description="drop on the header tdm-reservation: 1 (TDMRep)")
    obey_tdmrep_file: bool = Field(True, description="ask each host's /.well-known/tdmrep.json (TDMRep), drop what it reserves")
    timeout: float = Field(10, gt=0, le=300, description="seconds for one connect or read", json_schema_extra=_how)
    deadline: float = Field(30, gt=0, le=3600, description="seconds for one image, redirects included", json_schema_extra=_how)
    retries: int = Field(1, ge=0, le=5, description="further tries of a transient failure", json_schema_extra=_how)
    retry_days: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        (1, 3, 7),
        max_length=9,
        description="days after which retry_downloads asks again for what failed transiently, then again; after the last it is given up",
        json_schema_extra=_how,
    )
    # RFC 2616 8.1.4 gave a client two connections; browsers take six, Scrapy eight requests a domain, NeMo's tutorial sixteen. Four with
    # a tenth of a second between them ask less of a host than one reader who opens its pages.
    host_connections: int = Field(
        4, ge=1, le=1000, description="requests to one host at a time, over all processes and machines", json_schema_extra=_how
    )
    host_delay: float = Field(
        0.1, ge=0, le=3600, description="seconds between the starts of two requests to one host", json_schema_extra=_how
    )
    machines: int = Field(
        1,
        ge=1,
        le=1000,
        description="machines (or containers) that run download tasks at once: each has this share of the limits on hosts",
        json_schema_extra=_how,
    )
    host_patience: float = Field(
        60,
        ge=0,
        le=3600,
        description="seconds: URLs of a host that is to be left alone for longer end as host_resting, and are tried again days later",
        json_schema_extra=_how,
    )
    max_retry_after: float = Field(
        3600, ge=0, le=86_400, description="seconds that a Retry-After header is obeyed at most", json_schema_extra=_how
    )
    # Common Crawl's Nutch drops a host's queue after 5 exceptions and puts off what is unavailable by 300 s.
    host_failures: int = Field(
        10,
        ge=1,
        le=1_000_000,
        description="failures in a row (connect, timeout, 5xx) after which a host rests",
        json_schema_extra=_how,
    )
    host_rest: float = Field(300, ge=0, le=86_400, description="seconds that such a host rests", json_schema_extra=_how)
    host_folder: str | None = Field(
        None,
        description="folder in which all processes of a machine share limits and robots.txt, on a disk of its own, not on a network; "
        "empty: in the system's temporary one, or with download.resolver one of the task's own",
        json_schema_extra=_how,
    )
    decode_memory: int = Field(
        2_000_000_000, ge=50_000_000, description="bytes that decoding one image may take", json_schema_extra=_how
    )
    decode_timeout: float = Field(
        30, gt=0, le=600, description="seconds that decoding one image may take", json_schema_extra=_how
    )
    processes: int | None = Field(None, ge=1, le=512, description="processes; empty: one a core", json_schema_extra=_how)
    threads: int = Field(64, ge=1, le=1024, description="threads a process", json_schema_extra=_how)
    min_free_bytes: int = Field(
        1_000_000_000,
        ge=0,
        description="bytes free on the work folder's disk below which fetching pauses, until a tenth more are free",
        json_schema_extra=_how,
    )
    disk_patience: float = Field(
        3600,
        gt=0,
        description="seconds that fetching pauses for a full disk before the task ends to be tried again",
        json_schema_extra=_how,
    )
    samples_per_shard: int = Field(1000, ge=10, le=100_000, description="rows in one stored table of samples")
    resolver: str | None = Field(
        None,
        description="address:port that every host name resolves to: the demo's and replay's worlds only; empty: DNS",
        json_schema_extra=_how,
    )


class FilterSettings(Group):
    clip_model: str = Field("ViT-B-32", description="open_clip model name, or wat2mds-tiny")
    clip_pretrained: str = Field("openai", description="open_clip weights tag or a file's path")
    clip_model_other: str | None = Field(
        None,
        description="open_clip model that scores captions that are not reliably English; empty: clip_model scores all",
    )
    clip_pretrained_other: str = Field("", description="weights of clip_model_other: tag or a file's path")
    safety_head: str | None = Field(
        None,
        description="head on image embeddings that gives punsafe: path, a name of the catalogue (wat2mds models list), or of ours",
    )
    watermark_head: str | None = Field(None, description="head or image model that gives pwatermark, such as watermark-b3")
    toxicity_head: str | None = Field(
        None, description="head that gives toxicity, the probability of an inappropriate image, such as violence-b32"
    )
    aesthetic_head: str | None = Field(None, description="head that gives aesthetic")
    word_lists: str | None = Field(
        None,
        description="folder or URL of lists of words, one file a language, named by its code (en, de.txt), a word a line: flags captions",
    )
    zero_shot: bool = Field(
        False, description="LAION-400M's tags by the CLIP model itself: nsfw, and whether a child or an animal may be shown"
    )
    language_candidates: tuple[str, ...] | None = Field(
        None, description="ISO 639-1 codes that the detector tells apart; empty: all 75. Fewer load faster and confuse less"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="arithmetic of the CLIP towers")
    block_lists: tuple[Annotated[str, Field(pattern=r"^(md5|sha1|sha256|pdq|url|domain):.+$")], ...] = Field(
        (),
        description="lists of what must not be kept, as kind:path or kind:URL; kinds md5, sha1, sha256, pdq, url, domain; an entry a line",
        json_schema_extra=_decide,
    )
    pdq_max_distance: int = Field(
        31,
        ge=0,
        le=128,
        description="bits by which a PDQ hash may differ from a listed one (ThreatExchange: 31)",
        json_schema_extra=_decide,
    )
    pdq_min_quality: int = Field(
        50,
        ge=0,
        le=100,
        description="PDQ quality below which hashes are not compared (ThreatExchange: 50)",
        json_schema_extra=_decide,
    )
    # OBELICS (arXiv 2306.16527) leaves out images that stand more than ten times in its crawl.
    placeholder_urls: int | None = Field(
        10,
        ge=1,
        description="most URLs of a WAT file that may give the same bytes (OBELICS: 10); of more each is dropped; empty: any number",
        json_schema_extra=_decide,
    )
    placeholder_hosts: int = Field(
        1, ge=1, description="hosts that these URLs have to be spread over at least", json_schema_extra=_decide
    )
    min_similarity: float = Field(0.28, ge=-1, le=1, description="cosine, captions in English", json_schema_extra=_decide)
    min_similarity_other: float = Field(
        0.26, ge=-1, le=1, description="cosine, captions in another or no language", json_schema_extra=_decide
    )
    drop_illegal: bool = Field(
        False,
        description="LAION-400M's rules: drop what is tagged UNSURE or NSFW and may show a child or an animal; asks for zero_shot",
        json_schema_extra=_decide,
    )
    max_punsafe: float | None = Field(None, ge=0, le=1, description="empty: not a criterion", json_schema_extra=_decide)
    max_punsafe_with_word: float | None = Field(
        None,
        ge=0,
        le=1,
        description="punsafe where the caption holds a word of word_lists (Re-LAION research: 0.95); empty: not a criterion",
        json_schema_extra=_decide,
    )
    max_toxicity: float | None = Field(
        None, ge=0, le=1, description="empty: not a criterion; LAION's detector decides at 0.5", json_schema_extra=_decide
    )
    max_pwatermark: float | None = Field(None, ge=0, le=1, description="empty: not a criterion", json_schema_extra=_decide)
    min_aesthetic: float | None = Field(None, description="empty: not a criterion", json_schema_extra=_decide)
    min_caption_words: int = Field(
        0, ge=0, description="fewest words, divided by white space (DataComp's basic filter: 3)", json_schema_extra=_decide
    )
    min_caption_chars: int = Field(
        0, ge=0, description="fewest characters (DataComp's basic filter: 6)", json_schema_extra=_decide
    )
    min_original_side: int = Field(
        0, ge=0, description="shorter side of the original, pixels (DataComp's basic filter: 200)", json_schema_extra=_decide
    )
    max_original_aspect: float | None = Field(
        None,
        ge=1,
        description="ratio of the original's sides (DataComp's basic filter: 3); empty: not a criterion",
        json_schema_extra=_decide,
    )
    near_duplicates: Literal["keep", "wat_file", "dataset"] = Field(
        "keep",
        description="wat_file: of images of a WAT file that look alike (PDQ, 31 bits) only the best is kept: the one with the most pixels "
        "as fetched, then the one most similar to its caption, then that of the lesser uid; dataset: and none that looks like one that was "
        "published before the batch was deduplicated",
        json_schema_extra=_decide,
    )
    languages: tuple[str, ...] | None = Field(
        None, description="ISO 639-1 codes that are kept; empty: all and none", json_schema_extra=_decide
    )
    # From the curve of tests/benchmarks/language.py (lingua 2.1.1, 75 languages): with 0.5, 96.2 % of the word pairs that keep a
    # language (77 %) are right, of sentences 97.2 % (96 %), of single words 93.2 % (62 %); with 0.7, 99.0 % (63 %), 98.6 % (90 %) and
    # 97.8 % (50 %). 0.5 is the least that leaves one error in twenty-five among captions of a few words.
    min_language_probability: Share = Field(
        0.5,
        description="below it the language counts as none; lingua's word pairs are 96 % right above 0.5",
        json_schema_extra=_decide,
    )
    batch_size: int | None = Field(
        None,
        ge=1,
        le=8192,
        description="images at a time; empty: 64 on a CPU, on a GPU what half of its free memory holds, up to 256. It decides the last"
        " bits of scores: set it where GPUs with little memory shall make the same bytes",
        json_schema_extra=_how,
    )
    workers: int | None = Field(
        None, ge=1, description="threads that decode, ahead of the model; empty: one a core", json_schema_extra=_how
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the towers run", json_schema_extra=_how)

    def fingerprint(self, *, decisions: bool = True) -> dict[str, Any]:
        """As of every group; with two CLIP models the probability that makes a caption English decides which one scores it."""
        found = super().fingerprint(decisions=decisions)
        if self.clip_model_other:
            found["min_language_probability"] = self.min_language_probability
        return found

    @model_validator(mode="after")
    def _tags_for_their_rule(self) -> FilterSettings:
        if self.drop_illegal and not self.zero_shot:
            raise ValueError("drop_illegal decides on tags that zero_shot=false leaves out: set filter.zero_shot=true")
        if self.clip_model_other and (self.clip_model_other, self.clip_pretrained_other) == (
            self.clip_model,
            self.clip_pretrained,
        ):
            raise ValueError("clip_model_other is clip_model: leave it empty")
        if self.max_punsafe_with_word is not None and not self.word_lists:
            raise ValueError("max_punsafe_with_word decides on words: name lists in filter.word_lists")
        return self


class ValidateSettings(Group):
    min_download_success: Share = Field(0.0, description="share of pairs that must give an image, else the WAT file is held back")
    hash_sample: int = Field(100, ge=0, description="samples whose size and hash are checked against their bytes")
    drift_wat_files: int = Field(
        60, ge=1, le=1000, description="published WAT files that a new one is compared with: the last ones"
    )
    drift_min_rows: int = Field(1000, ge=1, description="samples, here and before, below which drift is not looked for")
    # Differences from what was published before; WAT files are drawn from the same crawl, so that they differ little by chance.
    warn_download_success: Bound = Field(0.1, description="difference in the share of pairs with an image that is reported")
    block_download_success: Bound = Field(0.4, description="difference in it that holds the WAT file back")
    warn_kept_share: Bound = Field(0.1, description="difference in the share of samples kept that is reported")
    block_kept_share: Bound = Field(0.3, description="difference in it that holds the WAT file back")
    warn_languages: Bound = Field(0.2, description="share of samples that would have to change language, reported")
    block_languages: Bound = Field(0.6, description="share of them that holds the WAT file back")
    warn_nsfw_rate: Bound = Field(0.03, description="difference in the share of unsafe samples that is reported")
    block_nsfw_rate: Bound = Field(0.2, description="difference in it that holds the WAT file back")
    warn_similarity: Bound = Field(0.02, description="difference in the mean similarity that is reported")
    block_similarity: Bound = Field(0.1, description="difference in it that holds the WAT file back")
    warn_sizes: Bound = Field(0.2, description="share of samples that would have to change their size class, reported")
    block_sizes: Bound = Field(0.6, description="share of them that holds the WAT file back")


class ConvertSettings(Group):
    shard_bytes: int = Field(64 << 20, ge=1 << 16, description="size limit of one MDS shard, bytes before compression")
    compression: str | None = Field(
        None,
        pattern=r"^(br(:(\d|1[01]))?|bz2(:[1-9])?|gz(:\d)?|snappy|zstd(:([1-9]|1\d|2[0-2]))?)$",
        description="MDSWriter's compression, e.g. zstd:3; empty: none. zstd saves 1 % of JPEGs and doubles the cost",
    )
    hashes: tuple[ShardHash, ...] = Field(
        ("sha1", "xxh64"), description="hashes of each shard in the index, for readers to check"
    )
    webdataset: bool = Field(
        False,
        description="the same samples as tar files of key.jpg, key.txt, key.json too, in the folder webdataset beside the shards",
    )


class UploadSettings(Group):
    threads: int = Field(8, ge=1, le=256, description="objects uploaded at a time", json_schema_extra=_how)
    part_bytes: int = Field(
        16 << 20,
        ge=5 << 20,
        le=1 << 30,
        description="bytes of one part: a larger object goes in several, up to 4 of each object in memory at a time",
        json_schema_extra=_how,
    )
    keep_images: bool = Field(
        False,
        description="keep a WAT file's images in the work folder after its upload, to try other settings and renewed block lists without "
        "another download; false: they go as soon as each object is verified, and the disk holds those in flight",
        json_schema_extra=_how,
    )


class PublishSettings(Group):
    groups: bool = Field(
        True,
        # Measured by tests/benchmarks/near_duplicates.py, which carries it on to 5 billion.
        description="give every image its group of near-duplicates, phash_group; compares it with all published ones, a million of "
        "these in 38 CPU seconds for a million new ones, in 5 for 100,000: turn it off beyond some hundred million",
    )


# In their order. A list of pairs that exists begins with "import" in place of "extract".
