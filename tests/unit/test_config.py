"""Settings: what is read, what is refused, and in which words."""

from __future__ import annotations

from typing import Any

import pytest

from memora import CacheConfig
from memora.errors import ConfigError


def test_the_defaults_are_the_documented_ones() -> None:
    documented = {
        "similarity_threshold": 0.85,
        "judge": "on",
        "verifier": "on",
        "cross_lingual": False,
        "db_uri": "memory://",
        "table_name": "semantic_cache",
        "enable_metrics": True,
        "ttl_seconds": None,
        "log_level": "INFO",
        "json_logs": False,
        "log_queries": False,
        "max_entries": 1000,
        "eviction_policy": "fifo",
        "auto_create_index": False,
        "durability": "process",
        "hot_index": "int8",
        "hot_payload_bytes": 64 * 1024 * 1024,
        "local_tier_bytes": 0,
        "max_staleness_seconds": 1.0,
        "index_threshold_entries": 256,
        "use_onnx": True,
        "cleanup_interval_seconds": None,
        "model_name": "packaged",
    }

    assert documented.items() <= CacheConfig().model_dump().items()


def test_keywords_alone_are_read_not_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMORA_MAX_ENTRIES", "7")

    assert CacheConfig().max_entries == 1000
    assert CacheConfig.load().max_entries == 7


def test_every_setting_has_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "MODEL_NAME": "other",
        "SINGLE_FLIGHT_TIMEOUT_SECONDS": "30",
        "USE_ONNX": "no",
        "SIMILARITY_THRESHOLD": "0.9",
        "JUDGE": "Off",
        "VERIFIER": "OFF",
        "CROSS_LINGUAL": "yes",
        "DB_URI": "/var/cache/memora",
        "TABLE_NAME": "t",
        "OPENTELEMETRY": "on",
        "ENABLE_METRICS": "off",
        "TTL_SECONDS": "1h",
        "TTL_JITTER": "0.1",
        "SLIDING_TTL": "on",
        "STALE_TTL_SECONDS": "90",
        "LOG_LEVEL": "debug",
        "JSON_LOGS": "TRUE",
        "LOG_QUERIES": "1",
        "MAX_ENTRIES": "100000",
        "MAX_BYTES": "1000000",
        "EVICTION_POLICY": "LRU",
        "AUTO_CREATE_INDEX": "Yes",
        "FLUSH_INTERVAL_SECONDS": "0.5",
        "DURABILITY": "Power",
        "HOT_INDEX": "off",
        "LOOKUP_TIMEOUT_SECONDS": "none",
        "BREAKER_FAILURES": "3",
        "BREAKER_RESET_SECONDS": "1m",
        "FAIL_OPEN": "no",
        "HOT_PAYLOAD_BYTES": "0",
        "LOCAL_TIER_BYTES": "1000",
        "MAX_STALENESS_SECONDS": "0.5",
        "INDEX_THRESHOLD_ENTRIES": "512",
        "CLEANUP_INTERVAL_SECONDS": "60",
        "MAX_PAYLOAD_BYTES": "1000",
        "MAX_EXPANSION": "32",
        "EMBEDDING_CACHE_SIZE": "0",
        "MODE": "Shadow",
        "SHADOW_LOG": "shadow.jsonl",
        "SHADOW_LOG_BYTES": "1000",
        "SHADOW_LOG_TEXTS": "true",
        "STORAGE_OPTIONS": '{"region": "x", "allow_http": true}',
    }
    for name, value in given.items():
        monkeypatch.setenv(f"MEMORA_{name}", value)

    assert CacheConfig.load() == CacheConfig(
        model_name="other",
        use_onnx=False,
        similarity_threshold=0.9,
        judge="off",
        verifier="off",
        cross_lingual=True,
        db_uri="/var/cache/memora",
        table_name="t",
        enable_metrics=False,
        opentelemetry=True,
        ttl_seconds=3600,
        ttl_jitter=0.1,
        sliding_ttl=True,
        stale_ttl_seconds=90,
        log_level="DEBUG",
        json_logs=True,
        log_queries=True,
        max_entries=100_000,
        max_bytes=1_000_000,
        eviction_policy="lru",
        auto_create_index=True,
        flush_interval_seconds=0.5,
        durability="power",
        hot_index="off",
        lookup_timeout_seconds=None,
        single_flight_timeout_seconds=30,
        breaker_failures=3,
        breaker_reset_seconds=60,
        fail_open=False,
        hot_payload_bytes=0,
        local_tier_bytes=1000,
        max_staleness_seconds=0.5,
        index_threshold_entries=512,
        cleanup_interval_seconds=60,
        max_payload_bytes=1000,
        max_expansion=32,
        embedding_cache_size=0,
        mode="shadow",
        shadow_log="shadow.jsonl",
        shadow_log_bytes=1000,
        shadow_log_texts=True,
        storage_options={"region": "x", "allow_http": "true"},
    )
    assert {name.lower() for name in given} == set(CacheConfig.model_fields)


@pytest.mark.parametrize("text", ["true", "1", "YES", "On", " on "])
def test_words_for_true(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMORA_JSON_LOGS", text)
    assert CacheConfig.load().json_logs is True


@pytest.mark.parametrize("text", ["false", "0", "NO", "Off", ""])
def test_words_for_false(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMORA_ENABLE_METRICS", text)
    assert CacheConfig.load().enable_metrics is False


@pytest.mark.parametrize(
    "name", ["MAX_ENTRIES", "MAX_BYTES", "TTL_SECONDS", "STALE_TTL_SECONDS", "MAX_PAYLOAD_BYTES"]
)
@pytest.mark.parametrize("word", ["none", "None", "NONE"])
def test_none_is_a_value_of_optional_numbers(
    name: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"MEMORA_{name}", word)
    assert getattr(CacheConfig.load(), name.lower()) is None


BAD: list[tuple[str, Any, str]] = [
    ("similarity_threshold", 1.5, "a number from 0 to 1"),
    ("similarity_threshold", -0.1, "a number from 0 to 1"),
    ("similarity_threshold", float("nan"), "a number from 0 to 1"),
    ("similarity_threshold", "high", "a number from 0 to 1"),
    ("judge", "maybe", "on or off"),
    ("judge", False, "on or off"),
    ("verifier", "maybe", "on or off"),
    ("cross_lingual", "some", "true, 1, yes or on"),
    ("ttl_seconds", 0, "seconds above 0"),
    ("ttl_seconds", -5, "seconds above 0"),
    ("ttl_seconds", float("inf"), "seconds above 0"),
    ("ttl_seconds", float("nan"), "seconds above 0"),
    ("ttl_seconds", True, "seconds above 0"),
    ("ttl_seconds", "soon", "10m or 1h30m"),
    ("ttl_jitter", 1.1, "a number from 0 to 1"),
    ("ttl_jitter", -0.1, "a number from 0 to 1"),
    ("sliding_ttl", "perhaps", "true, 1, yes or on"),
    ("stale_ttl_seconds", 0, "seconds above 0"),
    ("cleanup_interval_seconds", 0, "seconds above 0"),
    ("flush_interval_seconds", 0, "from 0.1 to 3600"),
    ("flush_interval_seconds", 3601, "from 0.1 to 3600"),
    ("flush_interval_seconds", True, "from 0.1 to 3600"),
    ("max_bytes", 0, "1 or more"),
    ("max_bytes", True, "1 or more"),
    ("max_entries", 0, "1 or more"),
    ("max_entries", 1.5, "1 or more"),
    ("max_entries", True, "1 or more"),
    ("eviction_policy", "mru", "fifo, lru, lfu, s3fifo or cost"),
    ("log_level", "LOUD", "DEBUG, INFO, WARNING or ERROR"),
    ("json_logs", "maybe", "true, 1, yes or on"),
    ("db_uri", "  ", "not blank"),
    ("db_uri", b"x", "not blank"),
    ("json_logs", "y", "true, 1, yes or on"),
    ("table_name", "t" * 200, "up to 128"),
    ("table_name", "a/b", "letters, digits"),
    ("table_name", "../up", "letters, digits"),
    ("embedding_cache_size", -1, "0 or more"),
]


@pytest.mark.parametrize(("name", "value", "accepted"), BAD)
def test_a_bad_value_is_named_with_what_is_accepted(name: str, value: Any, accepted: str) -> None:
    with pytest.raises(ConfigError) as caught:
        CacheConfig(**{name: value})
    message = str(caught.value)
    assert message.startswith(f"{name}={value!r}: expected ")
    assert accepted in message
    assert isinstance(caught.value, ValueError)


def test_a_bad_variable_is_named_with_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMORA_SIMILARITY_THRESHOLD", "85")

    with pytest.raises(
        ConfigError, match=r"MEMORA_SIMILARITY_THRESHOLD='85': expected a number from 0 to 1"
    ):
        CacheConfig.load()


def test_several_bad_values_are_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"ttl_seconds=-1: .*; max_entries=0: "):
        CacheConfig(ttl_seconds=-1, max_entries=0)


def test_an_unknown_keyword_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(
        ConfigError, match="unknown setting 'ttl_second'; did you mean 'ttl_seconds'"
    ):
        CacheConfig(ttl_second=3)  # type: ignore[call-arg]


def test_an_unknown_variable_is_reported_once_without_its_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEMORA_MAX_ENTRYS", "s3cret")

    CacheConfig.load()
    CacheConfig.load()

    logged = capsys.readouterr().err
    assert logged.count("MEMORA_MAX_ENTRYS") == 1
    assert "did you mean 'MEMORA_MAX_ENTRIES'?" in logged
    assert "s3cret" not in logged


def test_settings_cannot_be_changed_later() -> None:
    with pytest.raises(ValueError, match="frozen"):
        CacheConfig().max_entries = 3  # type: ignore[misc]


@pytest.mark.parametrize("value", ["{'a", "[1]", '{"key": 1.5}', '{"key": ["a secret"]}', "7"])
def test_storage_options_are_a_mapping_of_texts_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("MEMORA_STORAGE_OPTIONS", value)
    with pytest.raises(ConfigError, match=r"MEMORA_STORAGE_OPTIONS=str: expected a mapping"):
        CacheConfig.load()
    with pytest.raises(
        ConfigError, match=r"storage_options=\{'key': '\*\*\*'\}: expected"
    ) as refused:
        CacheConfig(storage_options={"key": ["a secret"]})  # type: ignore[dict-item]
    assert "a secret" not in str(refused.value)
    shown = CacheConfig(storage_options={"secret_access_key": "a secret"})
    assert "a secret" not in repr(shown) + str(shown) + str(shown.storage_options)
