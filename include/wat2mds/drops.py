"""Why a record, pair or sample was left out: the only place where drop reasons are named.

A reason belongs to one stage; that stage counts it, and the funnel reconciles in = out + Σ drops with it. A reason of download has a
class, which alone says whether the pair is asked for again; where what goes by one name could be of either class there are two
reasons (``dns``, ``dns_unanswered``; ``robots``, ``robots_unavailable``). What does not belong here: failures of a whole unit, which are
exceptions (``errors.py``).
"""

from __future__ import annotations

from enum import StrEnum


class FailureClass(StrEnum):
    """Whether asking again for a pair that gave no image can help, and may be done."""

    PERMANENT = "permanent"  # the same answer is to be expected
    TRANSIENT = "transient"  # tried again: in the task, and days later by retry_downloads
    POLICY = "policy"  # a rule of the site, or one of ours that protects others, says no


_PERMANENT, _TRANSIENT, _POLICY = FailureClass


class DropReason(StrEnum):
    """``reason.stage`` and ``reason.description`` say where it arises and what it means; ``reason.failure`` is the class of one of
    download, None of another stage."""

    stage: str
    description: str
    failure: FailureClass | None

    def __new__(cls, value: str, stage: str, description: str, failure: FailureClass | None = None) -> DropReason:
        member = str.__new__(cls, value)
        member._value_ = value
        member.stage = stage
        member.description = description
        member.failure = failure
        return member

    # extract: records
    NOT_METADATA = "not_metadata", "extract", "a warcinfo record, or the metadata of a request or of another record type"
    BAD_RECORD = "bad_record", "extract", "the record's JSON or framing is damaged; kept in the reject file"
    NO_IMAGE_LINK = "no_image_link", "extract", "the page has no IMG@/src link"
    # extract: links
    NO_URL = "no_url", "extract", "an IMG@/src link without a url, or with one that is not text"
    NO_CAPTION = "no_caption", "extract", "no alt text, or none left after cleaning"
    SHORT_CAPTION = "short_caption", "extract", "caption shorter than extract.min_caption_chars"
    LONG_CAPTION = "long_caption", "extract", "caption longer than extract.max_caption_chars"
    BAD_URL = "bad_url", "extract", "not an absolute http or https URL after resolution"
    DATA_URL = "data_url", "extract", "data:, javascript: and other schemes that cannot be downloaded"
    LONG_URL = "long_url", "extract", "URL longer than extract.max_url_chars"
    UNWANTED_TYPE = "unwanted_type", "extract", "the path ends in .svg, .ico or another type that is never kept"
    PRIVATE_HOST = "private_host", "extract", "literal IP address, localhost or a name without a public suffix"
    # import: rows that break the rules of the list that they come from; extract's reasons for links hold for them too
    BAD_ROW = "bad_row", "import", "URL or text of the row is no text"
    BAD_SIMILARITY = "bad_similarity", "import", "the row's similarity is no number between -1 and 1"
    BAD_SIZE = "bad_size", "import", "the row's width or height is not positive"
    BAD_SCORE = "bad_score", "import", "the row's punsafe or pwatermark is no probability"
    LOW_SOURCE_SIMILARITY = "low_source_similarity", "import", "the row's similarity is below import.min_similarity"
    # dedup: pairs
    DUPLICATE_IN_WAT = "duplicate_in_wat", "dedup", "the same uid stands earlier in the same WAT file"
    DUPLICATE_IN_BATCH = "duplicate_in_batch", "dedup", "an earlier WAT file of the same batch holds the uid"
    DUPLICATE_IN_DATASET = "duplicate_in_dataset", "dedup", "the ledger holds the uid for another WAT file"
    TAKEN_DOWN = "taken_down", "dedup", "a takedown lists its uid, URL, domain or page: it is not asked for"
    # download: pairs that give no image
    DNS = "dns", "download", "the host name does not exist", _PERMANENT
    DNS_UNANSWERED = "dns_unanswered", "download", "no name server told in time whether the host name exists", _TRANSIENT
    PRIVATE_ADDRESS = (
        "private_address",
        "download",
        "the host, or a redirect's, resolves to an address that is not public",
        _POLICY,
    )
    BAD_PORT = "bad_port", "download", "port outside download.allowed_ports", _POLICY
    CONNECT = "connect", "download", "no connection: refused, unreachable or reset", _TRANSIENT
    TLS = "tls", "download", "certificate or TLS handshake not acceptable", _PERMANENT
    TIMEOUT = "timeout", "download", "no answer in time, the total deadline passed, or status 408", _TRANSIENT
    HTTP_404 = "http_404", "download", "the server answered 404 or 410", _PERMANENT
    HTTP_403 = "http_403", "download", "the server answered 401, 403 or 451", _POLICY
    HOST_RESTING = (
        "host_resting",
        "download",
        "not asked: the host wants to be left alone (429, 503, Retry-After) or failed many times in a row",
        _TRANSIENT,
    )
    HTTP_429 = "http_429", "download", "the server answered 429: too many requests", _TRANSIENT
    HTTP_4XX = "http_4xx", "download", "the server answered another 4xx", _PERMANENT
    HTTP_5XX = "http_5xx", "download", "the server answered 5xx", _TRANSIENT
    HTTP_ERROR = "http_error", "download", "the answer is not valid HTTP, or an unexpected status", _PERMANENT
    REDIRECTS = "redirects", "download", "more redirects than download.max_redirects, or a redirect to no URL", _PERMANENT
    ROBOTS = "robots", "download", "robots.txt of the host disallows the URL", _POLICY
    ROBOTS_UNAVAILABLE = "robots_unavailable", "download", "robots.txt was answered 5xx: nothing may be asked now", _TRANSIENT
    X_ROBOTS = "x_robots", "download", "X-Robots-Tag says noai, noimageai, noindex or noimageindex", _POLICY
    TDM_RESERVED = "tdm_reserved", "download", "the tdm-reservation header or tdmrep.json reserves text and data mining", _POLICY
    TOO_LARGE = "too_large", "download", "more bytes than download.max_bytes", _PERMANENT
    TOO_SMALL_BYTES = "too_small_bytes", "download", "fewer bytes than download.min_bytes (LAION: 5 KB)", _PERMANENT
    NOT_IMAGE = "not_image", "download", "the bytes are not of a format in download.formats", _PERMANENT
    TOO_MANY_PIXELS = "too_many_pixels", "download", "width × height, read from the header, above download.max_pixels", _PERMANENT
    TOO_SMALL_SIDE = "too_small_side", "download", "shorter side below download.min_image_size", _PERMANENT
    ASPECT = "aspect", "download", "aspect ratio above download.max_aspect_ratio", _PERMANENT
    ANIMATED = "animated", "download", "more than one frame, where download.animated is drop", _PERMANENT
    DECODE = "decode", "download", "the image cannot be decoded", _PERMANENT
    DECODE_MEMORY = "decode_memory", "download", "decoding needs more memory than download.decode_memory", _PERMANENT
    DECODE_TIMEOUT = "decode_timeout", "download", "decoding takes longer than download.decode_timeout", _PERMANENT
    DECODE_CRASH = "decode_crash", "download", "the decoder crashed on the image, or was killed", _PERMANENT
    # filter: samples
    BLOCKED = "blocked", "filter", "on one of filter.block_lists; its image was deleted"
    TAKEN_DOWN_IMAGE = "taken_down_image", "filter", "a takedown lists it, by the hash of its image too; its image was deleted"
    PLACEHOLDER = "placeholder", "filter", "the same bytes under more than filter.placeholder_urls URLs of the WAT file"
    LOW_SIMILARITY = "low_similarity", "filter", "CLIP similarity below the profile's threshold"
    LANGUAGE = "language", "filter", "language not among filter.languages"
    UNDERAGE = "underage", "filter", "tagged UNSURE or NSFW, and image or caption speaks of a child or teenager"
    ANIMAL = "animal", "filter", "tagged UNSURE or NSFW, and the image shows an animal"
    UNSAFE = "unsafe", "filter", "punsafe above the profile's threshold"
    UNSAFE_WORD = "unsafe_word", "filter", "the caption holds a listed word, and punsafe is above filter.max_punsafe_with_word"
    TOXIC = "toxic", "filter", "toxicity above the profile's threshold"
    WATERMARKED = "watermarked", "filter", "pwatermark above the profile's threshold"
    LOW_AESTHETIC = "low_aesthetic", "filter", "aesthetic score below the profile's threshold"
    FEW_CHARACTERS = "few_characters", "filter", "caption of fewer characters than filter.min_caption_chars"
    FEW_WORDS = "few_words", "filter", "caption of fewer words than filter.min_caption_words"
    SMALL_ORIGINAL = "small_original", "filter", "shorter side of the original below filter.min_original_side"
    NARROW_ORIGINAL = "narrow_original", "filter", "aspect ratio of the original above filter.max_original_aspect"
    NEAR_DUPLICATE = (
        "near_duplicate",
        "filter",
        "looks like a better image of the WAT file, or like a published one (filter.near_duplicates)",
    )
    # upload: samples that were published
    WITHDRAWN = "withdrawn", "upload", "taken down after it was built: in no version that stands"

    @classmethod
    def of_stage(cls, stage: str) -> list[DropReason]:
        """The reasons that arise in one stage, in the order in which they are tested."""
        return [reason for reason in cls if reason.stage == stage]


# Filter deletes the images of these from download's tables, and keeps of them uid, place and reason.
IMAGE_DELETED = (DropReason.BLOCKED, DropReason.TAKEN_DOWN_IMAGE)
