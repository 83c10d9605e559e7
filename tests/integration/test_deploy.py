"""The files of deploy/: they mean what their formats say, and start what Memora can use."""

from __future__ import annotations

import json
import re
from importlib import resources, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator
from servers import query_engine, redis_program, running

from memora import CacheConfig, Memora
from memora.stores.tiered import TieredStore

if TYPE_CHECKING:
    from collections.abc import Mapping

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE = ("compose.yaml", "compose.valkey.yaml")
KUBERNETES = "1.30"  # the oldest that is meant
PASSWORD = "0123456789abcdef"  # noqa: S105 - of a server that lives for one test
_GIVEN = r"\$[{(]CACHE_PASSWORD[^})]*[})]"


def _load(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text("utf-8"))


def _manifests() -> dict[str, Any]:
    found = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text("utf-8"))
    return {f"{one['kind']} {one['metadata']['name']}": one for one in found}


def _container(manifest: Mapping[str, Any]) -> Any:
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    return container


def _options(command: list[str]) -> dict[str, str]:
    return dict(zip(command[1::2], command[2::2], strict=True))


def _environments() -> dict[str, dict[str, str]]:
    """Return what the application is given, with the password that the deployer sets."""
    compose = _load("compose.yaml")["services"]["app"]["environment"]
    manifests = _manifests()
    kubernetes = dict(manifests["ConfigMap memora"]["data"])
    for one in _container(manifests["Deployment app"])["env"]:
        if one["name"].startswith("MEMORA_"):
            kubernetes[one["name"]] = one["value"]
    return {
        name: {key: re.sub(_GIVEN, PASSWORD, value) for key, value in given.items()}
        for name, given in (("compose", compose), ("kubernetes", kubernetes))
    }


@pytest.mark.parametrize("name", COMPOSE)
def test_a_compose_file_is_one_by_the_specification(name: str) -> None:
    schemas = resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = json.loads((schemas / "compose-spec.json").read_text("utf-8"))
    problems = [
        f"{e.json_path}: {e.message}" for e in Draft202012Validator(schema).iter_errors(_load(name))
    ]
    assert problems == []


def test_each_manifest_is_one_by_the_schemas_of_kubernetes() -> None:
    for manifest in _manifests().values():
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@pytest.mark.parametrize("where", ["compose", "kubernetes"])
def test_what_the_application_is_given_are_settings(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    given = _environments()[where]
    settings = {f"MEMORA_{name.upper()}" for name in CacheConfig.model_fields}
    assert set(given) - settings == set()
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    config = CacheConfig.load()
    assert config.db_uri == f"redis://:{PASSWORD}@cache:6379"
    assert config.ttl_seconds == 7 * 86_400


def test_all_files_deploy_the_same() -> None:
    environments = _environments()
    assert environments["compose"] == environments["kubernetes"]
    servers = [_load(name)["services"]["cache"]["command"] for name in COMPOSE]
    servers.append(_container(_manifests()["StatefulSet cache"])["args"])
    options = [{**_options(one), "--requirepass": ""} for one in servers]
    assert options[0] == options[1] == options[2]


def test_what_manifests_name_is_there() -> None:
    manifests = _manifests()
    for name in ("app", "cache"):
        workload = manifests[f"{'Deployment' if name == 'app' else 'StatefulSet'} {name}"]
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert workload["spec"]["selector"]["matchLabels"] == labels
        assert manifests[f"Service {name}"]["spec"]["selector"] == labels
        ports = {port["name"] for port in _container(workload)["ports"]}
        asked = [one["targetPort"] for one in manifests[f"Service {name}"]["spec"]["ports"]]
        container = _container(workload)
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            how = container[probe].get("httpGet") or container[probe].get("tcpSocket")
            asked += [how["port"]] if how else []
        assert set(asked) <= ports
    policy = manifests["NetworkPolicy cache"]["spec"]
    assert policy["podSelector"]["matchLabels"] == {"app": "cache"}


def test_the_servers_have_more_memory_than_they_may_fill() -> None:
    limit = _container(_manifests()["StatefulSet cache"])["resources"]["limits"]["memory"]
    assert (limit, _load("compose.yaml")["services"]["cache"]["mem_limit"]) == ("4Gi", "4g")


def test_the_application_is_served_by_a_server_with_these_settings(
    capsys: pytest.CaptureFixture[str],
) -> None:
    testing = pytest.importorskip("fastapi.testclient")
    command = _load("compose.yaml")["services"]["cache"]["command"]
    options = [option.replace("${CACHE_PASSWORD}", PASSWORD) for option in command[1:]]
    with running(redis_program(), *query_engine(), *options) as server:
        uri = server.uri.replace("redis://", f"redis://:{PASSWORD}@")
        with testing.TestClient(_app().make_app(CacheConfig(db_uri=uri, ttl_seconds=60))) as client:
            asked = [client.get("/ask", params=_question(text)).json() for text in _REWORDED]
            assert asked[0] == asked[1]
            assert client.get("/ask", params=_question(_REWORDED[0], "globex")).json() != asked[0]
            assert client.get("/cache").status_code == 200
            server.kill()
            assert client.get("/ask", params=_question("Who founded us?")).status_code == 200
            said = {path: client.get(path).status_code for path in ("/live", "/ready", "/cache")}
            assert said == {"/live": 200, "/ready": 200, "/cache": 503}
    assert "server_setting" not in capsys.readouterr().err  # nothing about them to warn of


@pytest.mark.parametrize("engine", ["query engine", "vector sets"])
def test_a_user_with_the_rights_of_the_documentation_can_do_all(engine: str) -> None:
    redis = pytest.importorskip("redis")
    text = (DEPLOY.parent / "docs" / "deploy.md").read_text("utf-8")
    rules = [line for line in text.splitlines() if line.startswith("ACL SETUSER")]
    searching, listening = rules[engine == "vector sets"], rules[2]
    assert ("ft.search" in searching) == (engine == "query engine")
    options = query_engine() if engine == "query engine" else ()
    with running(redis_program(), *options) as server:
        with redis.Redis(port=server.port) as admin:
            admin.execute_command(*searching.split())
        uri = server.uri.replace("redis://", "redis://memora:password@")
        config = CacheConfig(db_uri=uri, max_entries=2, fail_open=False, ttl_seconds=60)
        with Memora(config) as cache:
            for i, query in enumerate((*_REWORDED, "Who founded us?", "Where is it?")):
                cache.store(query, None, i, tags=["people"])
            assert cache.lookup("who founded us", None).is_hit
            assert cache.health_check()["status"] == "healthy"
            assert cache.invalidate("Where is it?", similarity_threshold=0.99) == 1
            cache.outdate("people")
            assert cache.cleanup_expired() == 1
            assert cache.create_index()
            assert cache.clear() == 0
        assert not _hears_of_changes(config)
        with redis.Redis(port=server.port) as admin:
            admin.execute_command(*listening.split())
        assert _hears_of_changes(config)


def _hears_of_changes(config: CacheConfig) -> bool:
    with Memora(config.model_copy(update={"local_tier_bytes": 2**20})) as cache:
        cache.store("q", None, 1)
        assert cache.lookup("q").is_hit
        store = cache._ports.store
        assert isinstance(store, TieredStore)
        return store.follow()


_REWORDED = ("How do I reset my password?", "how can I reset my password")


def _question(text: str, tenant: str = "acme") -> dict[str, str]:
    return {"question": text, "tenant": tenant}


def _app() -> Any:
    spec = util.spec_from_file_location("deployed_app", DEPLOY / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
