"""Settings: a frozen object, validated once; invalid values are errors, never corrected.

`CacheConfig(...)` reads only its keywords; `CacheConfig.load()` reads `MEMORA_*`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from memora._durations import seconds
from memora._log import make_logger
from memora._names import nearest
from memora._uris import MASK, is_bucket, mistaken, without_password
from memora.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import timedelta
    from os import PathLike

    from pydantic_core import ErrorDetails

T = TypeVar("T")
PREFIX = "MEMORA_"
DEFAULT_MODEL = "packaged"

_OF_MEMORA = ("clock", "embedder", "same_answer", "store")  # arguments of `Memora`, not settings


def _boolean(value: Any) -> Any:
    words = {"": False, "false": False, "0": False, "no": False, "off": False}
    words |= {"true": True, "1": True, "yes": True, "on": True}
    if isinstance(value, str) and (word := value.strip().lower()) in words:
        return words[word]
    if not isinstance(value, bool):
        raise ValueError("not a boolean")  # noqa: TRY004 - pydantic expects a ValueError
    return value


def _optional(value: Any) -> Any:
    return None if isinstance(value, str) and value.strip().lower() == "none" else value


def _place(value: Any) -> Any:
    if not isinstance(value, os.PathLike):
        return value
    path = os.fspath(value)
    # Mark the value as a path, even if its text looks like a URI.
    return os.path.join(".", path) if isinstance(path, str) and mistaken(path) else path  # noqa: PTH118 - pathlib drops the dot


def _number(value: Any) -> Any:
    # pydantic accepts True as 1; as a count or a duration it is a mistake.
    if isinstance(value, bool):
        raise ValueError("not a number")  # noqa: TRY004 - pydantic expects a ValueError
    return value


class _Masked(dict[str, str]):
    """A mapping whose representation hides the values, as some are secrets."""

    def __repr__(self) -> str:
        return repr(dict.fromkeys(self, MASK))

    __str__ = __repr__


def _options(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError("not JSON") from None
    if not isinstance(value, Mapping):
        raise ValueError("not a mapping")  # noqa: TRY004 - pydantic expects a ValueError
    texts = {True: "true", False: "false"}
    found = {
        name: texts[one] if isinstance(one, bool) else str(one) if isinstance(one, int) else one
        for name, one in value.items()
    }
    if not all(isinstance(name, str) and isinstance(one, str) for name, one in found.items()):
        raise ValueError("not of texts")
    return _Masked(found)


# A description states the accepted values, other than those of a `Literal`; errors include it.
Flag = Annotated[
    bool,
    BeforeValidator(_boolean),
    Field(description="true, 1, yes or on, or false, 0, no, off or empty"),
]
Ratio = Annotated[
    float, BeforeValidator(_number), Field(ge=0, le=1, description="a number from 0 to 1")
]
Count = Annotated[
    int, BeforeValidator(_number), Field(ge=1, description="a whole number, 1 or more")
]
CountOrZero = Annotated[
    int, BeforeValidator(_number), Field(ge=0, description="a whole number, 0 or more")
]
OptionalCount = Annotated[
    Count | None,
    BeforeValidator(_optional),
    Field(description="a whole number, 1 or more, or none"),
]
Seconds = Annotated[
    float,
    BeforeValidator(partial(seconds, "duration")),
    Field(gt=0, allow_inf_nan=False, description="a number of seconds above 0"),
]
OptionalSeconds = Annotated[
    Seconds | None,
    BeforeValidator(_optional),
    Field(description="a number of seconds above 0, a text such as 10m or 1h30m, or none"),
]
NonBlankText = Annotated[
    str, Field(strict=True, pattern=r"\S", description="a text that is not blank")
]


class _Settings(BaseModel):
    """The settings of a cache: names, types, ranges and defaults."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), hide_input_in_errors=True
    )

    model_name: NonBlankText = DEFAULT_MODEL
    """The embedding model: "packaged" (one for English, one for 14 other languages), a local
    directory, or a hub name."""
    use_onnx: Flag = True
    """Run the model on ONNX Runtime; False uses the sentence-transformers library (torch)."""
    similarity_threshold: Ratio = 0.85
    """Minimum probability that the stored answer is right, in [0, 1]; lookups may override it."""
    judge: Literal["on", "off"] = "on"
    """Compare the two texts themselves; off uses the plain cosine as similarity."""
    verifier: Literal["on", "off"] = "on"
    """Let a model read the pairs of texts that the judge finds doubtful, if it is installed."""
    mode: Literal["serve", "shadow"] = "serve"
    """"shadow" looks up and stores but serves nothing; it logs what would have been served."""
    shadow_log: Annotated[NonBlankText | None, BeforeValidator(_optional)] = Field(
        default=None, description="the path of a file, or none"
    )
    """File to which shadow mode writes its comparisons, for `memora calibrate --from-log`."""
    shadow_log_bytes: Count = 64 * 1024 * 1024
    """Maximum size of the shadow log in bytes; then writing stops."""
    shadow_log_texts: Flag = False
    """Include the queries in the shadow log."""
    cross_lingual: Flag = False
    """Serve an answer that was stored for a query in another language."""
    db_uri: Annotated[NonBlankText, BeforeValidator(_place)] = "memory://"
    """`memory://`, a directory path, a server's `redis://` URL, or a bucket's `s3://` URL."""
    storage_options: Annotated[Mapping[str, str], PlainValidator(_options), NoDecode] = Field(
        default=_Masked(), description="a mapping of names to texts, or such a JSON object"
    )
    """Bucket options: `endpoint`, `region`, `allow_http`; put credentials in the environment."""
    table_name: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$",
            description="up to 128 letters, digits, '_', '-' and '.', not first '-' or '.'",
        ),
    ] = "semantic_cache"
    """Name of the table; caches with different tables at one location share nothing else."""
    enable_metrics: Flag = True
    """Count hits, misses and latencies for `get_stats`; faults are always counted."""
    opentelemetry: Flag = False
    """Report lookups, stores and metrics to the application's OpenTelemetry (extra `otel`)."""
    ttl_seconds: OptionalSeconds = None
    """Lifetime of an entry from its storage, in seconds or as "10m"; None for no expiry."""
    ttl_jitter: Ratio = 0.0
    """Maximum share of the TTL by which entries expire earlier, at random, to spread expiry."""
    sliding_ttl: Flag = False
    """Count the TTL from the last hit instead."""
    stale_ttl_seconds: OptionalSeconds = None
    """Time after its TTL during which an entry is still served, with `is_stale` set."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    json_logs: Flag = False
    """Log JSON lines instead of readable text."""
    log_queries: Flag = False
    """Add the query, and the matched one, to the log events of lookups and stores."""
    max_entries: OptionalCount = 1000
    """Maximum number of entries; None for no limit."""
    max_bytes: OptionalCount = None
    """Maximum size of all entries in bytes: texts, vectors, results; None for no limit."""
    eviction_policy: Literal["fifo", "lru", "lfu", "s3fifo", "cost"] = "fifo"
    """The order of eviction when a limit is reached; see the guide."""
    flush_interval_seconds: Annotated[
        float,
        BeforeValidator(_number),
        Field(ge=0.1, le=3600, description="a number of seconds from 0.1 to 3600"),
    ] = 5.0
    """Interval of writing the uses of entries to disk; `kill -9` may lose those of one interval."""
    durability: Literal["memory", "process", "power"] = "process"
    """What `store` waits for: nothing, the operating system, or the disk; see the guide."""
    hot_index: Literal["int8", "bfloat16", "float32", "off"] = "int8"
    """Vector type of the in-memory graphs of large contexts; off searches the table on disk."""
    hot_payload_bytes: CountOrZero = 64 * 1024 * 1024
    """Size in bytes of the RAM cache of results that are on disk."""
    local_tier_bytes: CountOrZero = 0
    """Size in bytes of the RAM cache of a server's entries, for exact hits; 0 for none."""
    max_staleness_seconds: Annotated[
        float,
        BeforeValidator(_number),
        Field(ge=0.02, le=60, description="a number of seconds from 0.02 to 60"),
    ] = 1.0
    """Maximum delay in seeing other processes' changes, in a store on disk or a local tier."""
    lookup_timeout_seconds: OptionalSeconds = 5.0
    """Maximum time that the cache delays a lookup, a store or a cached call; None for no limit."""
    single_flight_timeout_seconds: OptionalSeconds = 120.0
    """Time that a cached call waits for another's result before it computes too; None: no limit."""
    breaker_failures: Count = 5
    """Consecutive faults of the model or the store after which its calls are suspended."""
    breaker_reset_seconds: Seconds = 5.0
    """Duration of the suspension, before the next attempt."""
    fail_open: Flag = True
    """Treat a fault of the cache as a miss; False raises it."""
    auto_create_index: Flag = False
    """Index the table on disk at `index_threshold_entries`; lookups from RAM do not need it."""
    index_threshold_entries: Count = 256
    """Number of entries from which the table is indexed; LanceDB needs at least 256."""
    cleanup_interval_seconds: OptionalSeconds = None
    """Interval at which the scheduler, once started, removes expired entries."""
    max_payload_bytes: OptionalCount = 256 * 1024 * 1024
    """Maximum size of an encoded result in bytes; None for no limit."""
    max_expansion: Count = 16
    """Maximum RAM of a stored result as a multiple of its size; 64 MiB are always allowed."""
    embedding_cache_size: CountOrZero = 1024
    """Number of recent texts whose vectors are kept in RAM; 0 for none."""

    @field_validator(
        "judge",
        "verifier",
        "mode",
        "eviction_policy",
        "durability",
        "hot_index",
        "log_level",
        mode="before",
    )
    @classmethod
    def _fold_case(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        word = value.strip()
        return word.upper() if info.field_name == "log_level" else word.lower()


class Settings(TypedDict, total=False):
    """The settings as keywords of `Memora`, where `eviction_policy` is a separate argument."""

    ttl: float | str | timedelta | None
    """Short form of `ttl_seconds`."""
    model_name: str
    use_onnx: bool
    similarity_threshold: float
    judge: Literal["on", "off"]
    verifier: Literal["on", "off"]
    mode: Literal["serve", "shadow"]
    shadow_log: str | None
    shadow_log_bytes: int
    shadow_log_texts: bool
    cross_lingual: bool
    db_uri: str | PathLike[str]
    storage_options: Mapping[str, str]
    table_name: str
    enable_metrics: bool
    opentelemetry: bool
    ttl_seconds: float | str | timedelta | None
    ttl_jitter: float
    sliding_ttl: bool
    stale_ttl_seconds: float | str | timedelta | None
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"]
    json_logs: bool
    log_queries: bool
    max_entries: int | None
    max_bytes: int | None
    flush_interval_seconds: float
    durability: Literal["memory", "process", "power"]
    hot_index: Literal["int8", "bfloat16", "float32", "off"]
    hot_payload_bytes: int
    local_tier_bytes: int
    max_staleness_seconds: float
    lookup_timeout_seconds: float | str | timedelta | None
    single_flight_timeout_seconds: float | str | timedelta | None
    breaker_failures: int
    breaker_reset_seconds: float | str | timedelta
    fail_open: bool
    auto_create_index: bool
    index_threshold_entries: int
    cleanup_interval_seconds: float | str | timedelta | None
    max_payload_bytes: int | None
    max_expansion: int
    embedding_cache_size: int


class CacheConfig(_Settings):
    """The settings of one cache.

    Raises:
        ConfigError: An unknown setting, or a value out of range; lists each with its value and
            the accepted values.
    """

    if not TYPE_CHECKING:  # type checkers see the typed keywords

        def __init__(self, **settings: Any) -> None:
            _explained(lambda: super(CacheConfig, self).__init__(**settings))
            self._check_secrets()
            self._check_limits()
            self._check_mode()
            self._check_bucket()

        def __setattr__(self, name: str, value: object) -> None:
            # pydantic's own error would contain the value.
            raise ConfigError(f"{name} cannot be set: settings are frozen; use model_copy")

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Return all settings for the representation, with secrets masked."""
        yield from shown(self).items()

    @field_serializer("db_uri")
    def _shown_uri(self, db_uri: str) -> str:
        return without_password(db_uri)

    @field_serializer("storage_options")
    def _shown_options(self, options: Mapping[str, str]) -> dict[str, str]:
        return dict.fromkeys(options, MASK)

    def _check_secrets(self) -> None:
        """Refuse the masks that `model_dump` returns in place of secrets."""
        name = "db_uri" if f"{MASK}@" in self.db_uri or f"={MASK}" in self.db_uri else ""
        if name or MASK in self.storage_options.values():
            raise ConfigError(
                f"{name or 'storage_options'} has {MASK!r} instead of a secret, as model_dump and "
                "repr show it: expected the secret; model_copy(update=...) preserves it, and the "
                "attributes have it"
            )

    def _check_limits(self) -> None:
        whole = self.max_bytes
        if whole is not None and "max_payload_bytes" in self.model_fields_set:
            largest = self.max_payload_bytes
            if largest is None or largest > whole:
                raise ConfigError(
                    f"max_payload_bytes={largest!r} and max_bytes={whole!r}: expected "
                    "max_payload_bytes to be at most max_bytes, as a larger result could never be "
                    "stored"
                )

    def _check_mode(self) -> None:
        if self.mode == "shadow" and self.shadow_log is None:
            raise ConfigError(
                "mode='shadow' and shadow_log=None: expected the path of the file to which what "
                "would have been served is logged"
            )

    def _check_bucket(self) -> None:
        if self.hot_index == "off" and is_bucket(self.db_uri):
            shown = without_password(self.db_uri)
            raise ConfigError(
                f"hot_index='off' and db_uri={shown!r}: expected int8, bfloat16 or float32 "
                "with object storage, as a search does not wait for the network"
            )

    @classmethod
    def load(cls) -> CacheConfig:
        """Read `MEMORA_<SETTING>` from the environment; other settings keep their defaults.

        Unknown `MEMORA_*` variables are logged as warnings, once per process.

        Raises:
            ConfigError: An invalid value; names the variable, the value and the accepted values.
        """
        config = cls(**chosen(_explained(_Environment, prefix=PREFIX)))
        _report_unknown(config)
        return config


class _Environment(_Settings, BaseSettings):
    """The same settings, read as text from the environment."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", protected_namespaces=())


def _explained(make: Callable[[], T], *, prefix: str = "") -> T:
    try:
        return make()
    except ValidationError as error:
        problems = "; ".join(_explain(problem, prefix) for problem in error.errors())
    raise ConfigError(problems)  # raised without a cause: pydantic's error contains the values


def _explain(problem: ErrorDetails, prefix: str) -> str:
    setting = str(problem["loc"][0])
    name = f"{prefix}{setting.upper()}" if prefix else setting
    if problem["type"] == "extra_forbidden":
        return f"unknown setting {name!r}{hint(name)}"
    if problem["type"] == "literal_error":
        accepted = problem.get("ctx", {})["expected"].replace("'", "")
    else:
        accepted = _Settings.model_fields[setting].description
    given = problem["input"]
    if setting == "storage_options":  # may hold secrets
        shown = repr(_Masked(given)) if isinstance(given, Mapping) else type(given).__name__
    elif isinstance(given, str):
        shown = repr(without_password(given))
    else:
        shown = repr(given)
        if "@" in shown or "=" in shown:  # bytes or a list may contain a URI
            shown = type(given).__name__
    return f"{name}={shown}: expected {accepted}"


def environment() -> dict[str, str]:
    """Return the `MEMORA_*` variables that are set, known or not, by setting name."""
    return {
        name[len(PREFIX) :].lower(): text
        for name, text in sorted(os.environ.items())
        if name.upper().startswith(PREFIX)
    }


def setting(name: str, text: str) -> Any:
    """Return the validated value of one setting, independent of the others.

    Raises:
        ConfigError: The value is not accepted.
    """
    one: dict[str, Any] = {name: text}
    return getattr(_explained(lambda: _Settings(**one)), name)


def chosen(config: _Settings) -> dict[str, Any]:
    """Return the settings that differ from their defaults, including secrets."""
    return {name: getattr(config, name) for name in config.model_fields_set}


def shown(config: CacheConfig) -> dict[str, Any]:
    """Return all settings, without secrets."""
    values = {name: getattr(config, name) for name in CacheConfig.model_fields}
    hidden = dict.fromkeys(config.storage_options, MASK)
    return values | {"db_uri": without_password(config.db_uri), "storage_options": hidden}


def hint(name: str) -> str:
    """Return the end of a sentence that suggests a name for an unknown setting or variable."""
    prefix = PREFIX if name.upper().startswith(PREFIX) else ""
    known = [*_Settings.model_fields, *(() if prefix else _OF_MEMORA)]
    meant = nearest(name[len(prefix) :], known)
    if meant is None:
        return ""
    where = ", an argument of Memora" if meant in _OF_MEMORA else ""
    return f"; did you mean {(prefix + meant.upper() if prefix else meant)!r}{where}?"


def config_from(
    given: CacheConfig | str | PathLike[str] | None, settings: Mapping[str, Any]
) -> CacheConfig:
    """Return the settings to open a cache with.

    Args:
        given: Settings, or a `db_uri` or path; for None or a `db_uri`, the environment is read.
        settings: Overrides of those settings. `ttl` stands for `ttl_seconds`.

    Raises:
        ConfigError: A setting is invalid, unknown, or given twice.
    """
    changed = dict(settings)
    if isinstance(given, (str, os.PathLike)):
        if "db_uri" in changed:
            raise ConfigError("the store is given twice: by itself, and as db_uri")
        changed["db_uri"] = given
    elif given is not None and not isinstance(given, CacheConfig):
        raise ConfigError(
            "config must be a CacheConfig, or the URI or path of a store, got "
            f"{type(given).__name__}; settings are keywords: Memora(ttl_seconds=60)"
        )
    if "ttl" in changed:
        if "ttl_seconds" in changed:
            raise ConfigError("ttl and ttl_seconds are one setting: give one of them")
        changed["ttl_seconds"] = changed.pop("ttl")
    base = given if isinstance(given, CacheConfig) else CacheConfig.load()
    if not changed:
        return base
    return CacheConfig(**{**chosen(base), **changed})


_reported: set[str] = set()  # reported once per process, for any number of caches


def _report_unknown(config: CacheConfig) -> None:
    known = {f"{PREFIX}{setting.upper()}" for setting in _Settings.model_fields}
    found = {name for name in os.environ if name.upper().startswith(PREFIX)}
    for name in sorted(found - _reported):
        _reported.add(name)
        if name.upper() not in known:
            make_logger(config.log_level, json_logs=config.json_logs).warning(
                "unknown_setting", variable=name, hint=f"no such setting{hint(name.upper())}"
            )
