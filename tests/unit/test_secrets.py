"""No password, key or token of the settings is shown, however the setting is mistyped."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from memora import CacheConfig, Memora
from memora._uris import without_password
from memora.cli.app import app
from memora.cli.common import config_of
from memora.embedders import FunctionEmbedder
from memora.errors import ConfigError, MemoraError
from memora.stores import local_path
from memora.transfer import reembed

if TYPE_CHECKING:
    from collections.abc import Iterator

PASSWORD = "hunter2"  # noqa: S105 - shown in no output
MISTYPED = [
    "redis:/user:hunter2@cache:6379",
    "redis:user:hunter2@cache:6379",
    "redis:hunter2@cache:6379",
    "redis:///user:hunter2@cache:6379",
    "Redis//user:hunter2@cache",
    "redis//hunter2@cache",
    "//user:hunter2@cache",
    "user:hunter2@cache:6379",
    ":hunter2@cache:6379",
    "REDIS://user:hunter2@cache",
    " redis://user:hunter2@cache",
    "redis;//user:hunter2@cache",
    "rediss//:hunter2@cache/0",
    "postgres://user:hunter2@cache/db",
    "postgres:user:hunter2@cache/db",
    "valkey://hunter2@cache",
    "redis://user:hunter2",
    "redis://cache:hunter2",
    "redis://user:hunter2@h:x",
    "redis://user:a/hunter2@cache/x/y",
    "redis://user:a?hunter2@cache?b=1",
    "redis://user:a#hunter2@cache#",
    "redis://user:a@hunter2@cache?x=1",
    "redis://user:hunter2@[cache",
    "redis://user:hunter2@c\u2100che",
    "sftp://user:hunter2@c\u2100che",
    "s3://key:hunter2@b\u2100cket/x",
    "redis://cache?password=hunter2",
    "redis://cache?timeout=0.5&auth=hunter2",
    "redis://cache?timeout=hunter2",
    "redis://cache?pass%77ord=hunter2",
    "redis://cache;password=hunter2",
    "s3://bucket/x?access_key=hunter2",
    "az://bucket/x?sv=2022&sig=hunter2",
    "az://bucket/x?sas=hunter2",
    "AccountName=x;AccountKey=hunter2;EndpointSuffix=core",
    "DefaultEndpointsProtocol=https;AccountName=x;SharedAccessSignature=hunter2",
    "redis+sentinel://user:hunter2@a:1,other:hunter2@b:2/x/y/z",
    "redis+cluster://user:hunter2@a:1,b:x",
    "file://user:hunter2@host/x",
    "memory://user:hunter2@x",
    "s3://key:hunter2@bucket/x",
    "redis://user:hunter2\n@cache/x",
    "redis://user:%68hunter2@cache/x",
    "./redis://user:hunter2@cache",
    "/redis://user:hunter2@cache",
    "@redis://user:hunter2@cache",
    "<rediss://user:hunter2@cache>",
    "redis: //user:hunter2@cache",
]


def chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def shown(error: BaseException) -> str:
    return " ".join(f"{one} {one!r} {one.args}" for one in chain(error))


def opened(config: CacheConfig) -> Memora:
    return Memora(config, embedder=FunctionEmbedder(_embed, identity="x", dimension=1))


def _embed(texts: list[str]) -> list[list[float]]:
    return [[1.0]] * len(texts)


@pytest.mark.parametrize("uri", MISTYPED)
def test_a_mistyped_uri_is_refused_without_its_password(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # what is taken for a path would be made here
    config = CacheConfig(db_uri=uri)

    with pytest.raises(MemoraError) as raised:
        opened(config)
    with pytest.raises(MemoraError) as again:
        reembed(config, config)

    for text in (without_password(uri), shown(raised.value), shown(again.value), repr(config),
                 str(config.model_dump()), config.model_dump_json()):  # fmt: skip
        assert PASSWORD not in text
    assert config.db_uri == uri
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("uri", MISTYPED[:12])
def test_the_command_line_shows_no_password(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEMORA_DB_URI", uri)
    monkeypatch.setenv("MEMORA_STORAGE_OPTIONS", '{"secret_access_key": "hunter2"}')
    for command in (["stats", "--db", uri], ["doctor"], ["doctor", "--json"]):
        result = CliRunner().invoke(app, command)

        assert PASSWORD not in result.output + str(result.exception)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("redis://user:hunter2@cache:6379/0", "redis://user:***@cache:6379/0"),
        ("redis://:hunter2@cache?timeout=0.5&x=1", "redis://:***@cache?timeout=0.5&x=***"),
        ("user:hunter2@cache:6379", "user:***@cache:6379"),
        ("redis://[::1]:6379", "redis://[::1]:6379"),
        ("redis+cluster://a:7000,b:7001?shards=3", "redis+cluster://a:7000,b:7001?shards=3"),
        ("redis+sentinel://a,b:1/main/2", "redis+sentinel://a,b:1/main/2"),
        ("s3://bucket/caches@v2:x", "s3://bucket/caches@v2:x"),
        ("memory://", "memory://"),
        ("./me@home:x", "./me@home:x"),
        ("/data/a:b@c", "/data/a:b@c"),
        ("me@home", "me@home"),
        ("data/me@home", "data/me@home"),
        (r"C:\data\me@home", r"C:\data\me@home"),
        ("C:/data/me@home", "C:/data/me@home"),
        ("file:///data/me@home", "file:///data/me@home"),
        ("", ""),
    ],
)
def test_what_is_no_secret_is_shown(uri: str, expected: str) -> None:
    assert without_password(uri) == expected


@pytest.mark.parametrize("name", ["me@home", "partition_key=5", "./user:pw@home", "a=b"])
def test_a_directory_may_have_any_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert local_path(name) == Path(name)


def test_settings_are_masked_where_they_are_printed_and_whole_where_they_are_read() -> None:
    uri, options = "redis://user:hunter2@cache:6379", {"secret_access_key": "hunter2", "sas": "x"}
    config = CacheConfig(db_uri=uri, storage_options=options, ttl_seconds=60)

    printed = [
        repr(config), str(config), f"{config}", config.model_dump_json(), str(config.model_dump()),
        str(config.storage_options),
    ]  # fmt: skip
    assert PASSWORD not in " ".join(printed)
    assert json.loads(config.model_dump_json())["db_uri"] == "redis://user:***@cache:6379"
    copies = [copy.copy(config), copy.deepcopy(config), pickle.loads(pickle.dumps(config)),  # noqa: S301
              config.model_copy(update={"max_entries": 3})]  # fmt: skip
    for one in (config, *copies):
        assert (one.db_uri, dict(one.storage_options), one.ttl_seconds) == (uri, options, 60)
    assert type(config.db_uri) is str
    with pytest.raises(ConfigError, match="instead of a secret"):
        CacheConfig(**config.model_dump())
    with pytest.raises(ConfigError, match="instead of a secret"):
        CacheConfig(storage_options=config.model_dump()["storage_options"])
    assert CacheConfig(**CacheConfig().model_dump()) == CacheConfig()


def test_commands_are_given_the_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMORA_DB_URI", "redis://user:hunter2@cache:6379")
    monkeypatch.setenv("MEMORA_STORAGE_OPTIONS", '{"secret_access_key": "hunter2"}')

    assert CacheConfig.load().db_uri == config_of().db_uri == "redis://user:hunter2@cache:6379"
    assert config_of().storage_options["secret_access_key"] == PASSWORD


@pytest.mark.parametrize(
    "settings",
    [
        {"db_uri": b"redis://user:hunter2@cache"},
        {"db_uri": ["redis://user:hunter2@cache"]},
        {"db_uri": "redis://user:hunter2@cache", "max_entries": "many"},
        {"model_name": 3, "table_name": "redis://user:hunter2@cache"},
        {"max_entries": "redis://user:hunter2@cache"},
        {"storage_options": {"token": b"hunter2"}},
        {"storage_options": "hunter2"},
        {"storage_options": ["hunter2"]},
        {"db_url": "redis://user:hunter2@cache"},
    ],
)
def test_a_wrong_setting_is_refused_without_secrets(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as raised:
        CacheConfig(**settings)

    assert PASSWORD not in shown(raised.value)


def test_errors_of_pydantic_show_no_secrets() -> None:
    with pytest.raises(ConfigError, match="frozen") as frozen:
        CacheConfig().db_uri = "redis://user:hunter2@cache"  # type: ignore[misc]
    with pytest.raises((ValidationError, ConfigError)) as invalid:
        CacheConfig.model_validate({"db_uri": ["redis://user:hunter2@cache"], "ttl_seconds": -1})

    assert PASSWORD not in str(frozen.value) + str(invalid.value)
