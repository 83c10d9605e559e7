"""The language of a text, and texts in a language that the model does not read."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import pytest

from memora import CacheConfig, Memora, embedders
from memora.embedders import FunctionEmbedder
from memora.errors import ModelMismatchError
from memora.judge._language import NAMES, language_of
from memora.judge._others import contradiction, marks_of
from memora.judge.verifier import packaged_verifier
from memora.stores.memory import MemoryStore
from memora.transfer import reembed

if TYPE_CHECKING:
    from pathlib import Path

MINILM = "all-MiniLM-L6-v2"
SPANISH = "¿Cuántos clientes cancelaron su contrato este mes?"
REPEAT = "cuántos clientes han cancelado el contrato este mes"
TRAP = "¿Cuántos clientes cancelaron su contrato el mes pasado?"
SQL = {"agent": "sql"}
needs_models = pytest.mark.skipif(
    packaged_verifier() is None or not embedders._OTHERS.is_dir(),
    reason="this installation lacks the models for other languages",
)


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
    cache = Memora(CacheConfig(model_name=MINILM))
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
    with Memora(CacheConfig(model_name=MINILM)) as cache:
        for text in (SPANISH, TRAP, "Wie viele Kunden haben diesen Monat gekündigt?"):
            cache.lookup(text, SQL)
    lines = [x for x in capsys.readouterr().err.splitlines() if "language_not_read" in x]

    assert len(lines) == 1
    assert re.search("Spanish.*model_name|model_name.*Spanish", lines[0])


def test_a_table_of_the_english_model_is_served_as_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    english, asked = CacheConfig(model_name=MINILM, db_uri=str(tmp_path)), "Cancel my contract"
    with Memora(english) as cache:
        cache.store("How do I cancel my contract?", SQL, 7)
        cache.store(SPANISH, SQL, 8)
    capsys.readouterr()

    with Memora(CacheConfig(db_uri=str(tmp_path))) as cache:
        assert cache.lookup(asked, SQL, 0.5).result == 7
        assert (cache.lookup(SPANISH, SQL).result, cache.lookup(TRAP, SQL).reason) == (
            8,
            "language",
        )
        cache.store("Where is my invoice?", SQL, 9)
    said = capsys.readouterr().err
    assert "table_of_english" in said
    assert "memora reembed --model packaged" in said

    both = CacheConfig(db_uri=str(tmp_path), table_name="both")
    assert reembed(english, both).written == 3
    with Memora(both) as cache, Memora(english) as old:
        assert cache.lookup(asked, SQL, 0.5).result == 7
        assert cache.lookup(REPEAT, SQL).result == 8
        assert old.lookup("where is my invoice", SQL).result == 9
    with pytest.raises(ModelMismatchError, match="use-multilingual-v3"):
        Memora(english.model_copy(update={"table_name": "both"}))


@pytest.mark.parametrize(
    ("stored", "repeat", "trap"),
    [
        ("¿Cuántos clientes cancelaron su contrato este mes?", REPEAT, TRAP),
        ("这个月的销售额是多少", "这个月销售额多少", "上个月的销售额是多少"),
        ("كم عدد العملاء هذا الشهر؟", "ما عدد العملاء هذا الشهر؟", "كم عدد العملاء الشهر الماضي؟"),
    ],
)  # fmt: skip
@needs_models
def test_a_repeat_in_another_language_is_served_and_a_trap_refused(
    stored: str, repeat: str, trap: str
) -> None:
    with Memora(CacheConfig()) as cache:
        cache.store(stored, SQL, 7)
        served, refused = cache.lookup(repeat, SQL), cache.lookup(trap, SQL)

    assert (served.result, served.reason) == (7, "semantic")
    assert served.evidence[-1].kind == "verifier"
    assert (refused.is_hit, refused.reason) == (False, "below_threshold")
    assert "opposites" in {one.kind for one in refused.evidence}


def test_a_text_of_one_language_never_gets_the_answer_of_another() -> None:
    with Memora(CacheConfig()) as cache:
        cache.store("¿Cómo cancelo mi contrato?", SQL, "es")
        cache.store("How do I cancel my contract?", SQL, "en")
        for text in ("Comment résilier mon contrat ?", "Wie kündige ich meinen Vertrag?"):
            assert not cache.lookup(text, SQL, 0.0).is_hit


def test_an_installation_without_the_multilingual_files_serves_english(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(embedders, "_OTHERS", tmp_path / "absent")
    with Memora(CacheConfig()) as cache:
        cache.store("How do I cancel my contract?", SQL, 7)
        assert cache.lookup("how do I cancel my contract", SQL).result == 7
        assert cache.lookup(SPANISH, SQL).reason == "language"


@pytest.mark.parametrize(
    ("language", "one", "other", "kind"),
    [
        ("es", "exportar la lista", "importar la lista", "opposites"),
        ("es", "puedo cancelar", "no puedo cancelar", "negation"),
        ("de", "Ventil öffnen", "Ventil schließen", "opposites"),
        ("de", "Pizza mit Käse", "Pizza ohne Käse", "negation"),
        ("fr", "ventes du mois dernier", "ventes du mois prochain", "opposites"),
        ("it", "attivare la carta", "disattivare la carta", "opposites"),
        ("pt", "voo de ida", "voo de volta", "opposites"),
        ("nl", "omzet vorige maand", "omzet volgende maand", "opposites"),
        ("pl", "włącz alarm", "wyłącz alarm", "opposites"),
        ("ru", "до обеда", "после обеда", "opposites"),
        ("tr", "yemekten önce", "yemekten sonra", "opposites"),
        ("ar", "قبل الأكل", "بعد الأكل", "opposites"),
        ("zh", "饭前吃药", "饭后吃药", "opposites"),
        ("ja", "先月の売上", "来月の売上", "opposites"),
        ("ko", "지난 달 매출", "다음 달 매출", "opposites"),
        ("th", "เปิดไฟ", "ปิดไฟ", "opposites"),
    ],
)
def test_words_that_exclude_each_other_are_told_in_each_language(
    language: str, one: str, other: str, kind: str
) -> None:
    a, b = marks_of(one, language), marks_of(other, language)
    found = contradiction(a, b)

    assert found is not None
    assert found.kind == kind
    assert contradiction(a, a) is None


@pytest.mark.parametrize(
    ("language", "one", "other"),
    [
        ("es", "trenes de Málaga a Sevilla antes o después", "trenes antes de las ocho"),
        ("ja", "教えてくれませんか", "教えてください"),
        ("zh", "能不能退款", "可以退款吗"),
        ("xx", "not a list", "no list"),
    ],
)
def test_words_of_both_sides_and_polite_forms_exclude_nothing(
    language: str, one: str, other: str
) -> None:
    assert contradiction(marks_of(one, language), marks_of(other, language)) is None


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
