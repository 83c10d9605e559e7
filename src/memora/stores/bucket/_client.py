"""Objects under a prefix of a bucket: S3, Google Cloud Storage or Azure Blob Storage, by `obstore`.

Each request has a timeout and is retried a few times. A fault is a `StoreError` that names the
request and the cause, without secrets.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from memora._uris import BUCKETS, without_password
from memora.errors import ConfigError, MissingExtraError, StoreError, StorePathError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# Defaults of `storage_options`: timeouts of a connection and of a request.
_TIMEOUTS = {"connect_timeout": "2s", "timeout": "10s"}
_RETRIES = 2
_RETRY_SECONDS = 10
# Options of the HTTP client, the same for all clouds.
_CLIENT_OPTIONS = {
    "allow_http",
    "allow_invalid_certificates",
    "connect_timeout",
    "pool_idle_timeout",
    "pool_max_idle_per_host",
    "proxy_url",
    "timeout",
    "user_agent",
}
_FLAGS = {"allow_http", "allow_invalid_certificates"}
_SECRET = re.compile("key|secret|token|password|sas|credential", re.IGNORECASE)
_STATUS = re.compile(r"status code: (\d+)(?: ([A-Za-z ]+))?")
_CODE = re.compile(r"<Code>([^<]*)</Code>")


class Bucket:
    """Objects by name under one prefix.

    Args:
        uri: `s3://`, `gs://` or `az://`, then the bucket (or container) and a prefix.
        options: See the setting `storage_options`.

    Raises:
        MissingExtraError: The client library is not installed.
        ConfigError: The URI or an option is wrong.
    """

    def __init__(self, uri: str, options: Mapping[str, str]) -> None:
        try:
            import obstore  # noqa: PLC0415 - an extra
            from obstore import exceptions, store  # noqa: PLC0415
        except ImportError as error:
            raise MissingExtraError(f"db_uri={without_password(uri)!r}", extra="objects") from error
        self.uri = uri.rstrip("/")
        try:
            parts = urlsplit(self.uri)
        except ValueError:  # its message may quote the URI
            parts = urlsplit("")
        if parts.scheme not in BUCKETS or not parts.hostname or parts.query or "@" in parts.netloc:
            raise ConfigError(
                f"db_uri={without_password(uri)!r}: expected s3://, gs:// or az://, a bucket and a "
                "prefix, such as s3://bucket/caches"
            )
        self.options = {name.lower(): value for name, value in options.items()}
        self._client, self._faults = obstore, (exceptions.BaseError, OSError)
        client: dict[str, Any] = _TIMEOUTS | {
            name: value for name, value in self.options.items() if name in _CLIENT_OPTIONS
        }
        for name in _FLAGS & client.keys():
            client[name] = client[name].strip().lower() in {"true", "1", "yes", "on"}
        cloud: dict[str, Any] = {
            name: value for name, value in self.options.items() if name not in _CLIENT_OPTIONS
        }
        open_url: Any = store.from_url  # one signature per cloud
        try:
            self._store = open_url(
                self.uri,
                config=cloud,
                client_options=client,
                retry_config={
                    "max_retries": _RETRIES,
                    "retry_timeout": timedelta(seconds=_RETRY_SECONDS),
                },
            )
        except (exceptions.BaseError, ValueError, TypeError) as error:
            shown = without_password(uri)
            raise ConfigError(f"storage_options for {shown!r}: {self._message_of(error)}") from None
        self._exists = exceptions.AlreadyExistsError, exceptions.PreconditionError

    @property
    def lance_options(self) -> dict[str, str]:
        """The same options in LanceDB's form."""
        retries = {"client_max_retries": str(_RETRIES), "client_retry_timeout": "10"}
        return _TIMEOUTS | retries | self.options

    def put(self, name: str, data: bytes) -> None:
        """Write an object, replacing any of the same name.

        Raises:
            StoreError: The object may have been written, or not.
        """
        with self._named("write", name):
            self._client.put(self._store, name, data)

    def create(self, name: str, data: bytes) -> bool:
        """Create an object; return False if one of this name seems to exist already.

        Raises:
            StoreError: The object may have been written, or not.
        """
        with self._named("create", name):
            try:
                self._client.put(self._store, name, data, mode="create", use_multipart=False)
            except self._exists:
                return False
        return True

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """Return an object, or a part of it.

        Raises:
            FileNotFoundError: There is no such object.
            StoreError: It cannot be read.
        """
        with self._named("read", name):
            if length is None:
                return bytes(self._client.get(self._store, name).bytes())
            return bytes(self._client.get_range(self._store, name, start=start, length=length))

    def list(self, folder: str) -> dict[str, int]:
        """Return the names in a folder, relative to it, and their sizes.

        Raises:
            StoreError: It cannot be read.
        """
        with self._named("list", f"{folder}/"):
            pages = self._client.list(self._store, f"{folder}/", chunk_size=1000)
            return {
                str(one["path"]).rpartition(f"{folder}/")[2]: int(one["size"])
                for page in pages
                for one in page
            }

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects; missing ones are ignored.

        Raises:
            StoreError: Some may still exist.
        """
        for name in names:
            with self._named("delete", name):
                try:
                    self._client.delete(self._store, name)
                except FileNotFoundError:
                    continue

    @contextmanager
    def _named(self, operation: str, name: str) -> Iterator[None]:
        try:
            yield
        except self._faults as error:
            absent = isinstance(error, FileNotFoundError)
            if absent and operation in {"read", "delete"}:
                raise FileNotFoundError(f"there is no {self.uri}/{name}") from error
            kind: type[StoreError] = StoreError
            text, advice = self._message_of(error), ""
            if re.match("40[13] |credentials", text):
                kind, advice = StorePathError, "; check the credentials, and their rights"
            elif absent or "ContainerNotFound" in text or text.startswith("404 "):
                kind, advice = StorePathError, "; make the bucket first, or correct db_uri"
            elif "no answer" in text:
                advice = "; check the endpoint in storage_options, and the network"
            raise kind(f"cannot {operation} {self.uri}/{name}: {text}{advice}") from None

    def _message_of(self, error: BaseException) -> str:
        """Return a fault's message, shortened and without secrets."""
        text = str(error).split("\n\nDebug source", maxsplit=1)[0]
        status, code = _STATUS.search(text), _CODE.search(text)
        if status is not None:
            words = [status[1], (status[2] or "").strip(), code[1] if code else ""]
            return " ".join(word for word in words if word)
        if "HTTP error" in text or "timed out" in text or "operation timed" in text:
            text = "no answer: " + text.partition("HTTP error")[2].lstrip(": ")
        elif "metadata" in text or "credential" in text.lower():
            text = "credentials were not found: " + text
        text = " ".join(text.split())[:300]
        hidden = [value for name, value in self.options.items() if _SECRET.search(name)]
        hidden += [value for name, value in os.environ.items() if _SECRET.search(name)]
        for secret in hidden:
            if len(secret) > 3:  # noqa: PLR2004 - a shorter one is no secret
                text = text.replace(secret, "***")
        return text
