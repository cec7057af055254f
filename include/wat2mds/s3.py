"""What S3 needs beside obstore: its errors in words that say what to check, its checksums, and the multipart uploads nobody ended.

In: obstore's exceptions; the AWS_ variables, of the environment or given (``use_variables``). Out: wat2mds's errors, checksums,
aborted uploads. Guaranteed: no message holds a credential: of a store's answer only the error's code and message are repeated, and the
values of the secret AWS_ variables are blotted out of both.
What does not belong here: objects (``store.py``).
"""

from __future__ import annotations

import hashlib
import logging
import re
import tempfile
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from obstore.store import S3Store

from wat2mds.errors import ConfigError, DiskFullError, TransientError
from wat2mds.settings import Deployment, aws_variables, deployment

log = logging.getLogger(__name__)
# Bytes of one part of a multipart upload, and so the size up to which a file is one request. S3: at least 5 MiB, at most 10,000 parts.
PART_BYTES = 16 << 20
# Parts of one object in flight, each whole in memory.
PARTS_AT_ONCE = 4
_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN")
_SHORTEST_SECRET = 8  # what stores ask for at least; a test's "test" would blot out half a URL
_CREDENTIALS = "the credentials (Airflow connection wat2mds_store, or AWS_ variables)"
# S3's error codes that no retry mends, and what to check:
# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html#ErrorCodeList
_FATAL = {
    "AccessDenied": f"Check {_CREDENTIALS} and their rights on this path",
    "AccountProblem": "Ask the account's owner",
    "AllAccessDisabled": "Ask the account's owner",
    "AuthorizationHeaderMalformed": "Check AWS_REGION: it is not the bucket's",
    "ExpiredToken": f"Renew {_CREDENTIALS}: the session has expired",
    "IllegalLocationConstraintException": "Check AWS_REGION: it is not the bucket's",
    "InvalidAccessKeyId": f"Check {_CREDENTIALS}: the store does not know this access key",
    "InvalidBucketName": "Correct the bucket's name in the URL",
    "InvalidToken": f"Check {_CREDENTIALS}: the session token is not valid",
    "NoSuchBucket": "There is no such bucket: create it, or correct the URL or AWS_ENDPOINT_URL",
    "PermanentRedirect": "Check AWS_REGION and AWS_ENDPOINT_URL: the bucket is elsewhere",
    "RequestTimeTooSkewed": "Set this machine's clock",
    "SignatureDoesNotMatch": f"Check {_CREDENTIALS}: the secret key does not fit the access key",
}
_DENIED = f"Check {_CREDENTIALS} and their rights on this path"
# Answers without one of the codes, as the client words them.
_FATAL_TEXTS = {
    "Received redirect without LOCATION": "Check AWS_REGION: it is not the bucket's",
    # The machine's own address for credentials, asked where no variable holds any.
    "/latest/api/token": f"No credentials are set, and this machine has no role: set {_CREDENTIALS}",
    "/latest/meta-data/": f"No credentials are set, and this machine has no role: set {_CREDENTIALS}",
}


_source: Callable[[], Mapping[str, str]] = dict
# What the last client was given: an error is told without asking again, which may take a while, and fail.
_given: dict[str, str] = {}


def use_variables(source: Callable[[], Mapping[str, str]]) -> None:
    """From now on AWS_ variables come from ``source`` first, asked for each client, and then from the environment."""
    global _source, _given
    _source, _given = source, {}


def _ask() -> dict[str, str]:
    global _given
    _given = dict(_source())
    return _given


def client(bucket: str, prefix: str, place: Deployment) -> S3Store:
    """obstore's client for the objects below a prefix, as the AWS_ variables say where and as whom."""
    options: Any = {"allow_http": True, "timeout": timedelta(seconds=place.store_timeout)}
    config: Any = _ask()
    return S3Store(bucket, prefix=prefix or None, config=config, client_options=options, retry_config=retries(place))


def retries(place: Deployment) -> Any:
    """obstore's retries of 5xx, SlowDown, resets and timeouts of what is safe to repeat; its backoff has jitter."""
    return {
        "max_retries": place.store_retries,
        "retry_timeout": timedelta(seconds=place.store_retry_seconds),
        "backoff": {"init_backoff": timedelta(seconds=place.store_backoff), "max_backoff": timedelta(seconds=15), "base": 2},
    }


def code_of(error: BaseException) -> str:
    """S3's error code in a store's answer; empty where it gave none."""
    found = re.search(r"<Code>([A-Za-z0-9.]{1,80})</Code>", str(error))
    return found[1] if found else ""


def is_fatal(code: str) -> bool:
    """Whether no retry mends an answer with this code."""
    return code in _FATAL


def said(error: BaseException) -> str:
    """An error in one line: the client's words and the answer's code and message, without the rest of the answer and without secrets."""
    text = str(error).strip()
    line = (text.splitlines() or [""])[0].partition("<")[0].strip() or type(error).__name__
    code, message = code_of(error), re.search(r"<Message>([^<]{1,300})", text)
    if code:
        line += f" {code}" + (f": {message[1].strip()}" if message else "")
    return without_secrets(line)


def without_secrets(text: str) -> str:
    """The text without the values of the secret AWS_ variables, and without a user's name and password in its URLs."""
    variables = aws_variables() | _given
    for name in _SECRETS:
        if len(value := variables.get(name, "")) >= _SHORTEST_SECRET:
            text = text.replace(value, "***")
    return re.sub(r"(\w://)[^/\s@]+@", r"\1***@", text)


def explained(error: BaseException, verb: str, where: str, *, denied: bool = False) -> ConfigError | TransientError:
    """The error to raise for one of the client's: ConfigError for what no retry mends, saying what to check."""
    if DiskFullError.caused(error):
        return DiskFullError(f"cannot {verb} {where}: the disk is full; temporary files are in {tempfile.gettempdir()}")
    text, code = str(error), code_of(error)
    hint = _FATAL.get(code) or next((hint for words, hint in _FATAL_TEXTS.items() if words in text), "")
    if denied or hint:
        about = f"access denied ({code})" if denied and code else "access denied" if denied else said(error)
        return ConfigError(f"cannot {verb} {where}: {about}. {hint or _DENIED}")
    return TransientError(f"cannot {verb} {where}: {said(error)}")


def is_plain_md5(tag: str) -> bool:
    """Whether an ETag may be the MD5 of the object, as it is for one request and no encryption key of one's own."""
    return re.fullmatch(r'"?[0-9a-f]{32}"?', tag) is not None


def tag_of(data: bytes | memoryview) -> str:
    """The ETag that S3 gives to bytes written in one request."""
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def tag_of_file(source: Path, part_bytes: int) -> str:
    """The ETag that S3 gives to a file uploaded in parts of this size: the MD5 of the parts' MD5s, and their number.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html
    """
    parts = []
    with source.open("rb") as file:
        while part := file.read(part_bytes):
            parts.append(hashlib.md5(part, usedforsecurity=False))
    if len(parts) < 2:
        return f'"{parts[0].hexdigest()}"' if parts else tag_of(b"")
    whole = hashlib.md5(b"".join(part.digest() for part in parts), usedforsecurity=False)
    return f'"{whole.hexdigest()}-{len(parts)}"'


def abort_uploads(bucket: str, prefix: str, before: datetime | None = None, *, dry_run: bool = False) -> int:
    """End the multipart uploads of keys with this prefix that were begun, ``before`` a time if it is given, and neither completed nor
    aborted. Returns how many; with ``dry_run`` they are only counted.

    Of a live upload it makes a failed one, whose writer tries again. A store that does not let us list them is left as it is, with a
    warning. Raises TransientError.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    place = deployment()
    boto = _boto_client(bucket, tuple(sorted((aws_variables() | _ask()).items())), place.store_timeout, place.store_retries)
    count = 0
    try:
        for page in boto.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix):
            for upload in page.get("Uploads", []):
                if before is not None and upload["Initiated"] >= before:
                    continue
                if dry_run:
                    count += 1
                    continue
                try:
                    boto.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
                except boto.exceptions.NoSuchUpload:  # ended meanwhile, or a first try whose answer was lost
                    continue
                count += 1
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code in ("AccessDenied", "MethodNotAllowed", "NotImplemented", "403", "405", "501"):
            log.warning(
                "s3://%s/%s: the store does not let us list unfinished multipart uploads (%s): allow s3:ListBucketMultipartUploads and "
                "s3:AbortMultipartUpload, or set a lifecycle rule that aborts them",
                *(bucket, prefix, code),
            )
            return 0
        if code in _FATAL:
            raise ConfigError(f"cannot list unfinished uploads below s3://{bucket}/{prefix}: {code}. {_FATAL[code]}") from None
        raise TransientError(
            f"cannot end unfinished uploads below s3://{bucket}/{prefix}: {without_secrets(str(error))}"
        ) from None
    except BotoCoreError as error:
        raise TransientError(
            f"cannot end unfinished uploads below s3://{bucket}/{prefix}: {without_secrets(str(error))}"
        ) from None
    if count and not dry_run:
        log.info("s3://%s/%s: ended %d multipart uploads that nobody had finished", bucket, prefix, count)
    return count


@lru_cache(maxsize=4)
def _boto_client(bucket: str, aws: tuple[tuple[str, str], ...], timeout: float, further_tries: int) -> Any:
    """boto's client, for the one thing that obstore lacks, on obstore's reading of the AWS_ variables."""
    import boto3
    from botocore.config import Config

    variables = dict(aws)
    endpoint = variables.get("AWS_ENDPOINT_URL_S3") or variables.get("AWS_ENDPOINT_URL") or variables.get("AWS_ENDPOINT")
    style = "auto"
    if variables.get("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "").lower() in ("true", "1", "yes", "on"):
        style = "virtual"  # obstore wants the bucket in the endpoint's host, boto puts it there
        host = urlsplit(endpoint or "").netloc
        endpoint = endpoint.replace(host, host.removeprefix(f"{bucket}."), 1) if endpoint else None
    elif endpoint:
        style = "path"
    config = Config(
        s3={"addressing_style": style},
        retries={"mode": "standard", "max_attempts": 1 + further_tries},
        connect_timeout=timeout,
        read_timeout=timeout,
    )
    region = variables.get("AWS_REGION") or variables.get("AWS_DEFAULT_REGION") or "us-east-1"
    return boto3.client("s3", endpoint_url=endpoint, region_name=region, config=config)
