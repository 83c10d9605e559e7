"""The language of a text, and texts in a language that the model does not read."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from memora import CacheConfig, Memora
from memora.embedders import FunctionEmbedder
from memora.judge._language import NAMES, language_of
from memora.stores.memory import MemoryStore

SPANISH = "¿Cuántos clientes cancelaron su contrato este mes?"
TRAP = "¿Cuántos clientes cancelaron su contrato el mes pasado?"
SQL = {"agent": "sql"}


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("es", SPANISH),
        ("es", "cómo cambio la contraseña del wifi"),
        ("de", "Wie viele Kunden haben diesen Monat gekündigt?"),
        ("de", "Rechnung als PDF herunterladen"),
        ("fr", "combien de clients ont résilié ce mois-ci"),
        ("it", "quanti clienti hanno disdetto questo mese"),
        ("pt", "Quantos clientes cancelaram o contrato neste mês?"),
        ("nl", "hoeveel klanten hebben deze maand opgezegd"),
        ("pl", "ilu klientów zrezygnowało w tym miesiącu"),
        ("tr", "bu ay kaç müşteri aboneliğini iptal etti"),
        ("ru", "сколько клиентов ушло в этом месяце"),
        ("uk", "скільки клієнтів пішло цього місяця"),
        ("ar", "كم عدد العملاء الذين ألغوا هذا الشهر"),
        ("zh", "这个月有多少客户取消了合同"),
        ("zh", "這個月有多少客戶取消了合約"),
        ("ja", "今月解約した顧客は何人ですか"),
        ("ko", "이번 달에 해지한 고객은 몇 명인가요"),
        ("th", "เดือนนี้มีลูกค้ายกเลิกกี่ราย"),
        ("el", "πόσοι πελάτες ακύρωσαν αυτόν τον μήνα"),
        ("he", "כמה לקוחות ביטלו החודש"),
        ("hi", "इस महीने कितने ग्राहकों ने रद्द किया"),
        ("vi", "tháng này có bao nhiêu khách hàng hủy hợp đồng"),
    ],
)
def test_a_language_is_told(language: str, text: str) -> None:
    assert language_of(text) == language
    assert language in NAMES


@pytest.mark.parametrize(
    "text",
    [
        "How many customers cancelled this month?", "reset my password", "HOW DO I GET A REFUND",
        "wifi password", "hotel paris", "José García salary", "flights from São Paulo to Zürich",
        "SELECT name FROM clientes WHERE ciudad = 'Málaga'", "git push --tags", "gpg -d secret",
        "kubectl get pods -n prod", "df.groupby('mes').sum()", "MacBook Pro M3 16GB", "x", "é",
        "42", "?!", "", "\U0001f600\U0001f680", "id lo que", "résumé template", "Müller invoice",
        "SKU 4711-B / EAN 4006381333931", "how do I say 你好 in Japanese", "what does привет mean",
        "translate 'guten Morgen' to English", "naïve Bayes classifier", "pour it into the jar",
        "im out of milk", "apartments in Lima", "distance to Mars", "hi hi hi",
    ],
)  # fmt: skip
def test_english_code_names_and_what_cannot_be_told_are_not_foreign(text: str) -> None:
    assert language_of(text) in {"", "en"}


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("zh", "iPhone 15 Pro 多少钱"),
        ("ja", "AWSのS3バケットを削除する"),
        ("ko", "Windows 11 설치 방법"),
        ("ru", "как настроить VPN на iPhone"),
        ("de", "Wie exportiere ich den Report aus dem CRM als CSV?"),
    ],
)
def test_terms_of_a_trade_do_not_hide_a_language(language: str, text: str) -> None:
    assert language_of(text) == language


def test_a_long_text_is_told_by_its_beginning() -> None:
    assert language_of(f"{SPANISH} " * 10_000) == "es"
    assert language_of("\n".join([SPANISH] * 3)) == "es"


@pytest.fixture(scope="module")
def cache() -> Memora:
    cache = Memora(CacheConfig(model_name="all-MiniLM-L6-v2"))
    cache.store(SPANISH, SQL, 7)
    cache.store("How many customers cancelled this month?", SQL, 8)
    return cache


def test_a_text_in_a_language_that_the_model_does_not_read_matches_only_itself(
    cache: Memora,
) -> None:
    same, other = cache.lookup(SPANISH, SQL), cache.lookup(TRAP, SQL, 0.0)

    assert (same.result, same.reason) == (7, "exact")
    assert (other.is_hit, other.reason, other.nearest) == (False, "language", None)
    assert other.explanation == (
        "the model does not read Spanish, so only the very same text matches"
    )


def test_every_way_to_ask_gives_the_reason(cache: Memora) -> None:
    explained = cache.explain(TRAP, SQL)

    assert (explained.reason, explained.candidates) == ("language", ())
    assert not cache.check_availability(TRAP, SQL).available
    assert [one.reason for one in cache.lookup_many([(TRAP, SQL), (SPANISH, SQL)])] == [
        "language",
        "exact",
    ]
    assert asyncio.run(cache.alookup(TRAP, SQL)).reason == "language"
    assert cache.get_stats()["misses_by_reason"]["language"] > 0


def test_an_english_query_never_gets_the_answer_of_a_foreign_one(cache: Memora) -> None:
    found = cache.lookup("How many clients cancelled their contract this month?", SQL)

    assert found.matched_query != SPANISH
    assert cache.lookup("How many customers have cancelled this month?", SQL).result == 8


def test_one_warning_names_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    with Memora(CacheConfig(model_name="all-MiniLM-L6-v2")) as cache:
        for text in (SPANISH, TRAP, "Wie viele Kunden haben diesen Monat gekündigt?"):
            cache.lookup(text, SQL)
    lines = [x for x in capsys.readouterr().err.splitlines() if "language_not_read" in x]

    assert len(lines) == 1
    assert re.search("Spanish.*model_name|model_name.*Spanish", lines[0])


def test_an_embedder_that_does_not_name_its_languages_gets_all_texts() -> None:
    read: list[str] = []

    def embed(texts: list[str]) -> list[list[float]]:
        read.extend(texts)
        return [[1.0, 0.0]] * len(texts)

    store: Any = MemoryStore(dimension=2)
    cache = Memora(CacheConfig(), embedder=FunctionEmbedder(embed, identity="two"), store=store)
    cache.store(SPANISH, SQL, 7)

    assert cache.lookup(SPANISH.replace("contrato", "suscripción"), SQL).reason != "language"
    assert SPANISH in read
