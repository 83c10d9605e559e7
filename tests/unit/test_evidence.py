"""What two texts say, compared: each kind of evidence, where it is and where it is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memora.judge._compare import KINDS, Comparison, compare
from memora.judge._text import MOST_CHARACTERS, analyse

# What refuses a candidate, as opposed to what helps it or only says how alike two texts are.
CONFLICTS = {
    "numbers", "dates", "units", "identifiers", "names", "polarity", "polarity_loose", "siblings",
    "question", "quantifiers", "order", "bounds", "languages",
}  # fmt: skip

SAME = {
    "numbers": [
        ("invoices above 1k", "invoices above 1000"),
        ("invoices above 1,000", "invoices above 1000"),
        ("a bonus of $2000", "a bonus of 2000"),
        ("fifty percent of the votes", "50 % of the votes"),
        ("0.2 of the budget", "20% of the budget"),
        ("a walk of 5 km", "a walk of 5000 m"),
        ("a parcel of 2 kg", "a parcel of 2000 grams"),
        ("a film of 90 minutes", "a film of 1.5 hours"),
        ("two dozen bagels", "24 bagels"),
        ("a grant of $10k", "a grant of ten thousand dollars"),
        ("a grant of $3m", "a grant of three million dollars"),
        ("a grant of $2.5 million", "a grant of 2,500,000 dollars"),
        ("15 million subscribers", "15,000,000 subscribers"),
        ("a deposit of £500", "a deposit of 500 pounds"),
        ("a ticket for 40 €", "a ticket for 40 euros"),
        ("ferry at 6 pm", "ferry at 18:00"),
        ("ferry at 5.30 pm", "ferry at 17:30"),
        ("ferry at 12 am", "ferry at 0:00"),
        ("ferry at 7 am", "ferry at 07:00:00"),
        ("1 GB of traffic", "1024 MB of traffic"),
        ("2 TB of traffic", "2000 GB of traffic"),
        ("an oven at 180 °C", "an oven at 180 degrees celsius"),
        ("half a metre: 1/2 m", "half a metre: 0.5 m"),
        ("1½ cups of rice", "1.5 cups of rice"),
        ("the 3rd planet", "the third planet"),
        ("٣ oranges", "3 oranges"),
        ("\uff11\uff12 oranges", "twelve oranges"),
        ("a loan of 5 USD", "a loan of $5"),
    ],
    "dates": [
        ("orders of Q3", "orders of the third quarter"),
        ("orders of Q1", "orders of the first quarter"),
        ("orders of H2", "orders of the second half"),
        ("orders of 2021-Q3", "orders of Q3 2021"),
        ("orders of FY21", "orders of fiscal year 2021"),
        ("orders of March 5, 2021", "orders of 5 March 2021"),
        ("orders of the 5th of March", "orders of Mar 5"),
        ("orders of 2021-03-05", "orders of 3/5/2021"),
        ("orders of 2021/03/05", "orders of 5.3.2021"),
        ("orders of 25/12/2021", "orders of 12/25/2021"),
        ("orders of 05-Mar-2021", "orders of March 5th 2021"),
        ("orders of 2021-03", "orders of March 2021"),
        ("orders of 3/5/98", "orders of March 5, 1998"),
        ("class of '99", "class of 1999"),
        ("songs of the 90s", "songs of the nineties"),
        ("songs of the 1990s", "songs of the 90's"),
        ("open on Mon", "open on Monday"),
    ],
    "identifiers": [
        ("release v2.1.0", "release 2.1.0"),
        ("ping ANNA@example.org", "ping anna@example.org"),
    ],
    "names": [
        ("flights to the UK", "flights to the United Kingdom"),
        ("where is Nairobi", "Where is nairobi"),
    ],
    "polarity": [
        ("he can't swim", "he cannot swim"),
        ("it isn't raining", "it is not raining"),
        ("why doesnt it print", "why doesn't it print"),
        ("enable the firewall", "do not disable the firewall"),
        ("turn the lamp on", "do not turn the lamp off"),
        ("is the lamp on, or off", "is the lamp off, or on"),
        ("can I sell it", "could I sell it"),
        ("how will it end", "how would it end"),
    ],
    "siblings": [("paint it red", "paint it RED"), ("lamp and fan", "fan and lamp")],
    "question": [
        ("how come the sky is blue", "why is the sky blue"),
        ("what year did it open", "when did it open"),
        ("what is the best way to peel garlic", "how to peel garlic"),
        ("which colour is it", "what colour is it"),
    ],
    "order": [
        ("tea and coffee", "coffee and tea"),
        ("tea vs coffee", "coffee vs tea"),
        ("compare tea with coffee", "compare coffee with tea"),
        ("in Lima sell boats", "sell boats in Lima"),
        ("Ada taught Grace", "Grace was taught by Ada"),
    ],
    "words": [
        ("what does NATO do", "what does the north atlantic treaty organization do"),
        ("how to restrat the engine", "how to restart the engine"),
        ("what shoud I wear", "what should I wear"),
        ("a loud hair dryer", "a loud hairdryer"),
        ("please explain photosynthesis", "photosynthesis"),
        ("Hi there, could you tell me where Malta is?", "Where is Malta?"),
        ("[chat] User: where is Malta?", "where is Malta?"),
        ("okay so, um, where is Malta", "where is Malta"),
    ],
}

DIFFERENT = {
    "numbers": [
        ("invoices above 1k", "invoices above 10k", "numbers"),
        ("room 101", "room 102", "numbers"),
        ("a walk of 5 km", "a walk of 5 miles", "numbers"),
        ("ferry at 6 am", "ferry at 6 pm", "numbers"),
        ("ferry at 17:30", "ferry at 17:45", "numbers"),
        ("a grant of $10k", "a grant of €10k", "numbers"),
        ("5 US dollars", "5 Canadian dollars", "numbers"),
        ("a laptop with 16 GB", "a laptop with 15 GB", "numbers"),
        ("1/2 cup of rice", "2 cups of rice", "numbers"),
        ("card 4111111111111111", "card 4111111111111112", "numbers"),
        ("card " + "1" * 400, "card " + "2" * 400, "numbers"),
        ("costs $5 $6", "costs $5 $7", "numbers"),
        ("ten percent off", "20% off", "numbers"),
    ],
    "dates": [
        ("orders of Q3", "orders of Q4", "dates"),
        ("orders of the first quarter", "orders of the second quarter", "dates"),
        ("orders of 2021", "orders of 2022", "dates"),
        ("orders of FY21", "orders of fiscal 2022", "dates"),
        ("orders of March", "orders of April", "dates"),
        ("orders of 3/5/2021", "orders of 3/6/2021", "dates"),
        ("songs of the 1920s", "songs of the 2020s", "dates"),
        ("songs of the eighties", "songs of the nineties", "dates"),
        ("open on Monday", "open on Tuesday", "dates"),
        ("open today", "open tomorrow", "dates"),
    ],
    "units": [
        ("salaries in dollars", "salaries in euros", "units"),
        ("salaries in Canadian dollars", "salaries in Australian dollars", "units"),
        ("distance in km", "distance in miles", "units"),
        ("weather in celsius", "weather in fahrenheit", "units"),
    ],
    "identifiers": [
        ("release 2.1.0", "release 2.1.1", "identifiers"),
        ("generics in Python 3.1", "generics in Python 3.10", "identifiers"),
        ("ticket AB-1201", "ticket AB-1202", "identifiers"),
        ("ping anna@example.org", "ping anna@example.com", "identifiers"),
        ("show /etc/hosts", "show /etc/passwd", "identifiers"),
        ("what is os.path", "what is os.walk", "identifiers"),
        ("grep with --count", "grep with --quiet", "identifiers"),
        ("column user_id", "column order_id", "identifiers"),
        ("learn C++", "learn C#", "identifiers"),
        ("open https://a.example/x", "open https://a.example/y", "identifiers"),
    ],
    "names": [
        ("who is Ada Lovelace", "who is Grace Hopper", "names"),
        ("shops near Ljubljana", "shops near Maribor", "names"),
    ],
    "polarity": [
        ("may I eat it", "may I not eat it", "negation"),
        ("why does it print", "why doesn't it print", "negation"),
        ("why does it print", "why doesnt it print", "negation"),
        ("pizza with olives", "pizza without olives", "negation"),
        ("ich kann schlafen", "ich kann nicht schlafen", "negation"),
        ("je veux dormir", "je ne veux pas dormir", "negation"),
        ("quiero dormir", "no quiero dormir", "negation"),
        ("enable the firewall", "disable the firewall", "opposites"),
        ("the highest tower", "the lowest tower", "opposites"),
        ("is it legal", "is it illegal", "opposites"),
        ("sort ascending", "sort descending", "opposites"),
        ("turn the lamp on", "turn the lamp off", "opposites"),
        ("did the ferry leave", "will the ferry leave", "opposites"),
    ],
    "siblings": [
        ("print it as json", "print it as yaml", "format"),
        ("loops in python", "loops in ruby", "language"),
        ("paint it red", "paint it green", "color"),
        ("clean the kitchen", "clean the bathroom", "room"),
        ("book a table for lunch", "book a table for dinner", "meal"),
        ("gift for my cousin", "gift for my aunt", "relative"),
    ],
    "question": [
        ("when did the war end", "why did the war end", "question"),
        ("where is the shop", "when is the shop", "question"),
        ("how many eggs are there", "how much eggs are there", "question"),
        ("is bread baked", "how is bread baked", "question"),
    ],
    "quantifiers": [
        ("delete all files", "delete some files", "quantifiers"),
        ("which towns have trams", "which towns only have trams", "quantifiers"),
    ],
    "order": [
        ("Ada beat Grace", "Grace beat Ada", "order"),
        ("from euros to zloty", "from zloty to euros", "order"),
        ("translate English to Welsh", "translate Welsh to English", "order"),
        ("is Oslo colder than Rome", "is Rome colder than Oslo", "order"),
    ],
    "bounds": [
        ("at least 5 seats", "at most 5 seats", "bounds"),
        ("more than 5 seats", "exactly 5 seats", "bounds"),
        ("built before 1950", "built after 1950", "bounds"),
    ],
    "languages": [
        ("wie backe ich ein Brot", "how do I bake bread", None),
        ("как испечь хлеб", "how do I bake bread", None),
        ("パンの焼き方", "how do I bake bread", None),
    ],
}  # fmt: skip

SAME_PAIRS = [
    pytest.param(kind, a, b, id=f"{kind}: {a} = {b}")
    for kind, pairs in SAME.items()
    for a, b in pairs
]
DIFFERENT_PAIRS = [
    pytest.param(feature, a, b, kind, id=f"{feature}: {a[:40]} / {b[:40]}")
    for feature, rows in DIFFERENT.items()
    for a, b, kind in rows
]
TEXTS = sorted(
    {text for pairs in SAME.values() for pair in pairs for text in pair}
    | {text for rows in DIFFERENT.values() for *pair, _ in rows for text in pair if text}
)


def compared(a: str, b: str) -> Comparison:
    return compare(analyse(a), analyse(b))


def test_there_are_enough_pairs_of_every_kind() -> None:
    assert len(SAME_PAIRS) + len(DIFFERENT_PAIRS) >= 120
    assert not DIFFERENT.keys() - CONFLICTS


@pytest.mark.parametrize(("kind", "a", "b"), SAME_PAIRS)
def test_the_same_in_another_form_is_no_conflict(kind: str, a: str, b: str) -> None:
    features, evidence = compared(a, b)

    assert not CONFLICTS & features.keys()
    if kind in {"numbers", "dates", "identifiers", "words"}:
        assert evidence == []


@pytest.mark.parametrize(("feature", "a", "b", "kind"), DIFFERENT_PAIRS)
def test_what_differs_is_found_and_named(feature: str, a: str, b: str, kind: str | None) -> None:
    features, evidence = compared(a, b)

    assert features[feature] > 0
    if kind:
        assert kind in {one.kind for one in evidence}


@pytest.mark.parametrize(
    ("a", "b"),
    [pytest.param(*pair.values[1:3], id=pair.id) for pair in [*SAME_PAIRS, *DIFFERENT_PAIRS]],
)
def test_each_pair_has_the_same_features_both_ways(a: str, b: str) -> None:
    assert compared(a, b).features == pytest.approx(compared(b, a).features)


@given(st.lists(st.sampled_from(TEXTS), min_size=2, max_size=4), st.data())
def test_any_mixture_has_the_same_features_both_ways(texts: list[str], data: st.DataObject) -> None:
    words = " ".join(texts).split()
    a = " ".join(texts)
    b = " ".join(data.draw(st.permutations(words))[: data.draw(st.integers(1, len(words)))])

    assert compared(a, b).features == pytest.approx(compared(b, a).features)


@given(st.lists(st.sampled_from(TEXTS), max_size=4))
def test_a_text_does_not_conflict_with_itself(texts: list[str]) -> None:
    features, evidence = compared(" ".join(texts), " ".join(texts))

    assert not (CONFLICTS | {"substitution", "insertion"}) & features.keys()
    assert evidence == []


@pytest.mark.parametrize(
    ("a", "b", "kind", "detail"),
    [
        pytest.param("sales in Q3", "sales in Q4", "dates", "Q3 / Q4", id="both sides"),
        pytest.param(
            "paid on 1/2/2020", "paid on 3/4/2021", "dates", "1/2/2020 / 3/4/2021", id="date once"
        ),
        pytest.param(
            "paid in Canadian dollars", "paid in Swiss francs", "units",
            "Canadian dollars / Swiss francs", id="a currency with its country",
        ),
        pytest.param(
            "Postgres feeds Kafka", "Kafka feeds Postgres", "order",
            "Postgres feeds Kafka / Kafka feeds Postgres", id="words as they stand",
        ),
        pytest.param(
            "show the violet carpets", "show the carpets", "words",
            "only one of them says violet", id="one side",
        ),
        pytest.param(
            "please explain tidal locking", "describe lunar locking", "words", "tidal / lunar",
            id="without what says nothing",
        ),
    ],
)  # fmt: skip
def test_evidence_reads_well(a: str, b: str, kind: str, detail: str) -> None:
    assert (kind, detail) in [(one.kind, one.detail) for one in compared(a, b).evidence]


def test_words_that_only_ask_are_no_evidence() -> None:
    assert compared("show me the tides", "explain the tides please").evidence == []


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("how do I renew the lease", "en"),
        ("wie kann ich den Vertrag kündigen", "de"),
        ("comment puis je annuler mon contrat", "fr"),
        ("cómo puedo cancelar el contrato", "es"),
        ("como cancelar o contrato da minha casa", "pt"),
        ("come annullo il contratto della casa", "it"),
        ("hoe kan ik het contract van mijn huis stoppen", "nl"),
        ("как отменить договор", "ru"),
        ("איך לבטל חוזה", "he"),
        ("契約を取り消す", "ja"),
        ("no VPN", "en"),
        ("zxqv", ""),
        ("123", ""),
        ("", ""),
    ],
)
def test_a_language_is_told_by_its_small_words_or_its_script(text: str, language: str) -> None:
    assert analyse(text).language == language


def test_texts_that_differ_after_what_is_read_are_not_the_same() -> None:
    long = "the tide is high " * (MOST_CHARACTERS // 17 + 1)

    features, evidence = compared(long + "in Malta", long + "in Crete")

    assert features["substitution"] == 1.0
    assert evidence[0].detail == "the texts differ after 8,000 characters"
    assert compared(long + "in Malta", long + "in Malta").features == {}


def test_every_feature_belongs_to_a_kind() -> None:
    named = {feature for features in KINDS.values() for feature in features}
    found = {name for pair in DIFFERENT_PAIRS for name in compared(*pair.values[1:3]).features}

    assert found - named == {"foreign", "languages"}  # cap and bar, and are not weighed
