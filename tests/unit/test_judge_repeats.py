"""Repeats in other words: what the judge counts as the same, and near misses that it does not."""

from __future__ import annotations

import time

import pytest

from memora._characters import difference
from memora.judge._compare import compare
from memora.judge._text import analyse
from memora.judge._words import phrases, relations, stem

# Evidence that speaks for a candidate, or has no weight.
FOR = {"explained", "anchored"}
# More than a word of asking ("need") and less than any other word.
LITTLE = 0.12

SAME = {
    "equal phrases": [
        ("how do I get in touch with the museum", "how do I contact the museum"),
        ("can they call the concert off", "can they cancel the concert"),
        ("turn the porch light on", "turn on the porch light"),
        ("turn on bluetooth", "enable bluetooth"),
        ("switch the heating off", "disable the heating"),
        ("what time does the pool open", "when does the pool open"),
        ("how far is Mars", "distance to Mars"),
        ("how tall is the tower", "height of the tower"),
        ("how many people live in Malta", "population of Malta"),
        ("can I get my money back for the shoes", "can I get a refund for the shoes"),
        ("put off the dentist", "postpone the dentist"),
        ("send the boots back", "return the boots"),
        ("fill the visa form in", "fill in the visa form"),
        ("is the sauna working", "does the sauna work"),
        ("what are the opening hours of the zoo", "business hours of the zoo"),
        ("how do I log on to the portal", "how do I sign in to the portal"),
        ("bring wine from overseas", "bring wine from abroad"),
        ("the rights of a US citizen", "the rights of an American citizen"),
        ("wages in the USA", "wages in the United States"),
        ("cinemas near me", "cinemas in my area"),
        ("what is the tl;dr of the memo", "summarize the memo"),
        ("create an account at the library", "set up an account at the library"),
    ],
    "periods": [
        ("rent per month", "monthly rent"),
        ("the annual budget", "the yearly budget"),
        ("the budget per year", "the annual budget"),
        ("visitors each day", "daily visitors"),
        ("a newsletter every week", "a weekly newsletter"),
        ("a backup every two weeks", "a fortnightly backup"),
        ("salary per hour", "hourly salary"),
        ("feed the cat twice a day", "feed the cat two times per day"),
    ],
    "synonyms": [
        ("end my lease", "cancel my lease"),
        ("apply for a fishing permit", "request a fishing permit"),
        ("fix a bicycle", "repair a bicycle"),
        ("erase a voicemail", "delete a voicemail"),
        ("a photo of a heron", "a picture of a heron"),
        ("where is my automobile", "where is my car"),
        ("museums for kids", "museums for children"),
        ("find a vet in Lima", "find a veterinarian in Lima"),
        ("flu season", "influenza season"),
        ("a lawyer for tenants", "an attorney for tenants"),
        ("what does parking cost", "what is the price of parking"),
        ("swap the tyres", "exchange the tires"),
        ("is a helmet mandatory", "is a helmet compulsory"),
        ("transfer 40 euros to Ana", "send 40 euros to Ana"),
        ("countries that border Chad", "countries adjacent to Chad"),
    ],
    "forms of one word": [
        ("summarize the treaty", "a summary of the treaty"),
        ("cancellation of a lease", "cancel a lease"),
        ("refunding a deposit", "refund a deposit"),
        ("installation of a boiler", "install a boiler"),
        ("conversion of acres", "convert acres"),
        ("translating a poem", "translation of a poem"),
        ("payment of a fine", "pay a fine"),
        ("registration of a boat", "register a boat"),
        ("delivery of a piano", "deliver a piano"),
        ("is chalk soluble", "solubility of chalk"),
    ],
    "greetings and filler": [
        ("Hi team, how do I prune roses?", "How do I prune roses?"),
        ("Hey there! How do I prune roses?", "How do I prune roses?"),
        ("Yo guys, quick question: how do I prune roses?", "How do I prune roses?"),
        ("Dear Sir or Madam, how do I prune roses? Kind regards, Ada", "How do I prune roses?"),
        ("How do I prune roses? Many thanks, Ada", "How do I prune roses?"),
        ("How do I prune roses? Thanks in advance!", "How do I prune roses?"),
        ("how do i prune roses pls thx", "How do I prune roses?"),
        ("btw how do I prune roses", "How do I prune roses?"),
        ("I was wondering if you could tell me how to prune roses", "How do I prune roses?"),
        ("Would you mind telling me how to prune roses?", "How do I prune roses?"),
        ("if you don't mind, how do I prune roses?", "How do I prune roses?"),
        ("Does anyone know how to prune roses?", "How do I prune roses?"),
        ("How would I go about pruning roses?", "How do I prune roses?"),
        ("What are the steps to prune roses?", "How do I prune roses?"),
        ("ummm so how do I prune roses", "How do I prune roses?"),
    ],
    "amounts": [
        ("a dozen tulips", "12 tulips"),
        ("half a dozen tulips", "six tulips"),
        ("50 per cent of the votes", "50% of the votes"),
        ("half of the votes", "50 % of the votes"),
        ("half a million voters", "500,000 voters"),
        ("sleep for half an hour", "sleep for 30 minutes"),
        ("sleep for an hour and a half", "sleep for 90 minutes"),
        ("sleep for 2 hours and 10 minutes", "sleep for 130 minutes"),
        ("a ride of 1h45", "a ride of 105 minutes"),
        ("back in a week", "back in 7 days"),
        ("two and a half cups of flour", "2.5 cups of flour"),
        ("two thirds of the votes", "2/3 of the votes"),
        ("three quarters of the votes", "3/4 of the votes"),
        ("a fence of 6 ft 2 in", "a fence of 74 inches"),
        ("ferry at 7 p.m.", "ferry at 19:00"),
        ("ferry at noon", "ferry at 12 pm"),
        ("ferry at midnight", "ferry at 0:00"),
        ("ferry at four o'clock", "ferry at 4"),
        ("twice the price", "2 times the price"),
        ("a 14-day cruise", "a 14 day cruise"),
        ("a four-star hotel", "a 4-star hotel"),
        ("wind of 80 km/h", "wind of 80 kph"),
        ("wind of 60 miles per hour", "wind of 60 mph"),
        ("a card of 64 gigs", "a card of 64 GB"),
        ("World War II tanks", "World War 2 tanks"),
        ("type I errors", "type 1 errors"),
        ("chapter IV of Emma", "chapter 4 of Emma"),
        ("a prize of 1 000 000 euros", "a prize of 1,000,000 euros"),
    ],
    "contractions": [
        ("im out of milk", "I'm out of milk"),
        ("theyre out of milk", "they are out of milk"),
        ("theres no milk", "there is no milk"),
        ("whens the milk delivered", "when is the milk delivered"),
    ],
    "spelling": [
        ("the colour of a neighbour's theatre", "the color of a neighbor's theater"),
        ("organise a jewellery fair", "organize a jewelry fair"),
        ("pay a cheque at the centre", "pay a check at the center"),
        ("customised pyjamas", "customized pajamas"),
        ("two travellers cancelled", "two travelers canceled"),
    ],
    "hyphens": [
        ("my e-mail address", "my email address"),
        ("the sign-in button", "the login button"),
        ("real-time traffic", "realtime traffic"),
        ("a full-time nanny", "a fulltime nanny"),
        ("re-install a driver", "reinstall a driver"),
        ("buy socks on-line", "buy socks online"),
    ],
}  # fmt: skip

DIFFERENT = [
    # phrases
    ("turn on bluetooth", "turn off bluetooth"),
    ("turn the porch light on", "turn the porch light off"),
    ("enable bluetooth", "switch bluetooth off"),
    ("how do I log in", "how do I log out"),
    ("check in to my flight", "check my flight"),
    ("send the boots back", "send the boots"),
    ("pay back a loan", "pay for a loan"),
    ("the sauna does not work", "the sauna works"),
    ("turn left on Monday", "turn right on Monday"),
    # periods
    ("a weekly newsletter", "a biweekly newsletter"),
    ("the annual fee", "the biannual fee"),
    ("rent per month", "rent per week"),
    ("the monthly report", "the report of last month"),
    ("a backup every day", "a backup every two days"),
    ("5 years", "5 per year"),
    ("feed the cat twice a day", "feed the cat daily"),
    ("a check twice per year", "an annual check"),
    # synonyms
    ("lend a ladder", "borrow a ladder"),
    ("inbound trains", "outbound trains"),
    ("refund a ticket", "buy a ticket"),
    ("install a boiler", "uninstall a boiler"),
    ("start a lease", "end a lease"),
    ("hire a gardener", "fire a gardener"),
    ("a debit card", "a credit card"),
    ("sleep of kittens", "sleep of cats"),
    ("an employer's duties", "an employee's duties"),
    # amounts
    ("ferry at 7 a.m.", "ferry at 7 p.m."),
    ("ferry at noon", "ferry at midnight"),
    ("sleep for half an hour", "sleep for an hour"),
    ("two thirds of the votes", "three quarters of the votes"),
    ("twice a shift", "thrice a shift"),
    ("back in a week", "back in a month"),
    ("tanks of World War I", "tanks of World War II"),
    ("World War I tanks", "World War II tanks"),
    ("type 1 diabetes", "type II diabetes"),
    ("type I diabetes", "type II diabetes"),
    ("phase I trials", "phase 3 trials"),
    ("a 14-day cruise", "a 7-day cruise"),
    ("order 12-abc", "order 13-abc"),
    ("a fence of 6 ft 2 in", "a fence of 6 ft 4 in"),
    # spelling
    ("serialise a list", "deserialize a list"),
    # filler
    ("question mark on a keyboard", "exclamation mark on a keyboard"),
    ("How do I prune roses? Many thanks, Ada", "How do I prune lilies? Many thanks, Ada"),
    ("Hey Siri, how do I prune roses", "Hey Siri, how do I plant roses"),
]  # fmt: skip


def against(a: str, b: str) -> dict[str, float]:
    features, _ = compare(analyse(a), analyse(b))
    return {
        name: value
        for name, value in features.items()
        if name not in FOR and not (name in {"insertion", "substitution"} and value < LITTLE)
    }


def ids(cases: dict[str, list[tuple[str, str]]]) -> list[object]:
    return [
        pytest.param(a, b, id=f"{kind}: {a} = {b}")
        for kind, pairs in cases.items()
        for a, b in pairs
    ]


@pytest.mark.parametrize(("a", "b"), ids(SAME))
def test_a_repeat_in_other_words_has_nothing_against_it(a: str, b: str) -> None:
    assert against(a, b) == against(b, a) == {}


@pytest.mark.parametrize(("a", "b"), DIFFERENT, ids=lambda text: text)
def test_a_near_miss_keeps_its_difference(a: str, b: str) -> None:
    assert compare(analyse(a), analyse(b)).evidence
    assert compare(analyse(b), analyse(a)).evidence


def test_another_way_to_write_a_word_explains_a_low_cosine() -> None:
    phrase = compare(analyse("price per year"), analyse("the yearly price"))
    synonym = compare(analyse("flats in Lima"), analyse("apartments in Lima"))

    assert phrase.features["explained"] > 0
    assert synonym.features["explained"] > 0
    assert "explained" not in compare(analyse("annual price"), analyse("annual price")).features


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("how do you spell colour", {"colour"}),
        ("translate 'overseas' to Latin", {"oversea"}),
        ("a nicer word than 'pic'", {"pic"}),
    ],
)
def test_a_question_about_words_keeps_them(text: str, words: set[str]) -> None:
    assert words <= analyse(text).content.keys()
    assert analyse(text).phrased == frozenset()


def test_a_word_that_only_looks_like_a_greeting_stays() -> None:
    assert "question" in analyse("question mark on a keyboard").content
    assert "hm" in analyse("HM return policy").content


def test_a_pronoun_is_no_number() -> None:
    assert analyse("which type I want").atoms == analyse("the part I like").atoms == {}


def test_evidence_shows_the_phrase_as_it_was_written() -> None:
    (found,) = compare(analyse("rent per week"), analyse("rent each month")).evidence

    assert (found.kind, found.detail) == ("period", "per week / each month")


def test_a_text_of_politeness_alone_keeps_its_words() -> None:
    assert analyse("thanks in advance").sequence == analyse("Thanks in advance!").sequence != ()


@pytest.mark.parametrize(
    "text",
    ["", ".", "half", "half a", "a dozen", "no. ", "turn", "turn on", "turn the", "x " * 3_000,
     "turn a b c d e f on " * 400, "1 000 000 " * 800, "half an hour and a half " * 300,
     "two thirds of " * 500, "'\" 5'10 " * 900, "12-abc-" * 1_000, "? thanks, " * 700,
     "\U0001f600 " * 4_000, "hi \U0001f44b" * 2_000],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_a_strange_text_is_analysed_in_time(text: str) -> None:
    started = time.process_time()
    analysed = analyse(text)
    difference(text, f"{text}\U0001f44b")

    assert time.process_time() - started < 2
    assert compare(analysed, analysed).features.keys() <= FOR


QUESTION = "How do I prune roses?"


@pytest.mark.parametrize(
    "text",
    [
        f"\U0001f44b {QUESTION}",
        f"Hi \U0001f44b {QUESTION}",
        f"Hello team! \U0001f44b\U0001f3fd {QUESTION}",
        f"\U0001f62d\U0001f62d {QUESTION}",
        f"hey \U0001f605, {QUESTION} \U0001f64f",
        f"{QUESTION} \U0001f62d",
    ],
)
def test_a_friendly_emoji_around_a_question_is_no_difference(text: str) -> None:
    assert difference(QUESTION, text) == difference(text, QUESTION) == ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (QUESTION, f"\U0001f534 {QUESTION}"),
        (QUESTION, f"\U0001f600\U0001f601\U0001f600 {QUESTION}"),
        (QUESTION, "How do \U0001f44b I prune roses?"),
        ("is rude where?", "\U0001f44b is rude where?"),
        ("does what?", "\u2728 does what?"),
        ("what does it mean?", "\U0001f44b what does it mean?"),
        ("two roses", "\U0001f44b two roses"),
        ("hi", "hi \U0001f44b"),
    ],
)
def test_an_emoji_that_may_have_a_meaning_is_a_difference(one: str, other: str) -> None:
    assert difference(one, other)
    assert difference(other, one)


def test_no_phrase_stands_for_its_opposite() -> None:
    antonyms = relations().antonyms
    wrong = [
        (phrase.word, phrase.words)
        for those in phrases().values()
        for phrase in those
        if not antonyms.get(stem(phrase.word), frozenset()).isdisjoint(phrase.stems)
    ]

    assert wrong == []


def test_every_phrase_is_listed_once_and_is_not_its_own_word() -> None:
    found = [
        (*phrase.words, "*" * bool(phrase.particle), phrase.particle)
        for those in phrases().values()
        for phrase in those
    ]
    own = [
        phrase
        for those in phrases().values()
        for phrase in those
        if phrase.words == (phrase.word,) and not phrase.particle
    ]

    assert len(found) == len(set(found))
    assert own == []
