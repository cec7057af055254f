"""Why a record, pair or sample was left out: the only place where drop reasons are named.

A reason belongs to one stage; that stage counts it, and the funnel reconciles in = out + Σ drops with it. What does not
belong here: failures of a whole unit, which are exceptions (``errors.py``).
"""

from __future__ import annotations

from enum import StrEnum


class DropReason(StrEnum):
    """``reason.stage`` and ``reason.description`` say where it arises and what it means."""

    stage: str
    description: str

    def __new__(cls, value: str, stage: str, description: str) -> DropReason:
        member = str.__new__(cls, value)
        member._value_ = value
        member.stage = stage
        member.description = description
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
    # download: pairs that give no image
    DNS = "dns", "download", "the host name does not resolve"
    PRIVATE_ADDRESS = "private_address", "download", "the host, or a redirect's, resolves to an address that is not public"
    BAD_PORT = "bad_port", "download", "port outside download.allowed_ports"
    CONNECT = "connect", "download", "no connection: refused, unreachable or reset"
    TLS = "tls", "download", "certificate or TLS handshake not acceptable"
    TIMEOUT = "timeout", "download", "no answer in time, or the total deadline passed"
    HTTP_404 = "http_404", "download", "the server answered 404 or 410"
    HTTP_403 = "http_403", "download", "the server answered 401, 403 or 451"
    HTTP_429 = "http_429", "download", "the server answered 429: too many requests"
    HTTP_4XX = "http_4xx", "download", "the server answered another 4xx"
    HTTP_5XX = "http_5xx", "download", "the server answered 5xx"
    HTTP_ERROR = "http_error", "download", "the answer is not valid HTTP, or an unexpected status"
    REDIRECTS = "redirects", "download", "more redirects than download.max_redirects, or a redirect to no URL"
    ROBOTS = "robots", "download", "robots.txt of the host disallows the URL"
    X_ROBOTS = "x_robots", "download", "X-Robots-Tag says noai, noimageai, noindex or noimageindex"
    TDM_RESERVED = "tdm_reserved", "download", "the tdm-reservation header or tdmrep.json reserves text and data mining"
    TOO_LARGE = "too_large", "download", "more bytes than download.max_bytes"
    TOO_SMALL_BYTES = "too_small_bytes", "download", "fewer bytes than download.min_bytes (LAION: 5 KB)"
    NOT_IMAGE = "not_image", "download", "the bytes are not of a format in download.formats"
    TOO_MANY_PIXELS = "too_many_pixels", "download", "width × height, read from the header, above download.max_pixels"
    TOO_SMALL_SIDE = "too_small_side", "download", "shorter side below download.min_image_size"
    ASPECT = "aspect", "download", "aspect ratio above download.max_aspect_ratio"
    ANIMATED = "animated", "download", "more than one frame, where download.animated is drop"
    DECODE = "decode", "download", "the image cannot be decoded"
    DECODE_MEMORY = "decode_memory", "download", "decoding needs more memory than download.decode_memory"
    DECODE_TIMEOUT = "decode_timeout", "download", "decoding takes longer than download.decode_timeout"
    DECODE_CRASH = "decode_crash", "download", "the decoder crashed on the image, or was killed"
    # filter: samples
    BLOCKED = "blocked", "filter", "on one of filter.block_lists; its image was deleted"
    LOW_SIMILARITY = "low_similarity", "filter", "CLIP similarity below the profile's threshold"
    LANGUAGE = "language", "filter", "language not among filter.languages"
    UNDERAGE = "underage", "filter", "tagged UNSURE or NSFW, and image or caption speaks of a child or teenager"
    ANIMAL = "animal", "filter", "tagged UNSURE or NSFW, and the image shows an animal"
    UNSAFE = "unsafe", "filter", "punsafe above the profile's threshold"
    WATERMARKED = "watermarked", "filter", "pwatermark above the profile's threshold"
    LOW_AESTHETIC = "low_aesthetic", "filter", "aesthetic score below the profile's threshold"

    @classmethod
    def of_stage(cls, stage: str) -> list[DropReason]:
        """The reasons that arise in one stage, in the order in which they are tested."""
        return [reason for reason in cls if reason.stage == stage]
