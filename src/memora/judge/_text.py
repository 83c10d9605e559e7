"""What the judge knows of one text, worked out once."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import cache, lru_cache
from typing import NamedTuple

from text_to_num import alpha2digit

from memora.judge._atoms import Atom, Token, take_atoms, tokens_of
from memora.judge._words import relations, stem

# What is read of a text. A model reads less: MiniLM 256 tokens.
_MOST_CHARACTERS = 8_000
_STOP = frozenset(
    "a an the this that these those of in on at to for from by as is are was were be been being am do does did "
    "done have has had having will would shall should can could may might must i me my mine we us our you your yours "
    "he him his she her it its they them their and or but if then than so such there here what which who whom whose "
    "how why when where with about into onto upon out up off over just also too very really please kindly "
    "hi hello hey thanks thank some any only ever get got let s d ll re ve m t it's there's".split()
)
_NEGATORS = frozenset(
    "not no never without none nothing nobody neither nor cannot except excluding "
    "nicht kein keine keinen keiner nie niemals ohne pas jamais rien aucun aucune sans nunca sin "
    "nada ningún ninguna não nem sem non mai senza niet geen nooit zonder".split()
)
# What is said in asking, whatever is asked.
_LIGHT = frozenset(
    "explain describe tell give show list name find see know want need like help asked ask asking "
    "question wondering wonder trying guess mean sort kind kinda honestly basically whatever actually "
    "really buddy quick please kindly cheers um uh erm hmm well okay ok so right lol btw "
    "currently possibly good morning afternoon evening hope look provide return display way "
    "thing stuff much bit lot analyze analyse analysis data info information figures overview".split()
)
_LIGHT_WEIGHT = 0.1
_STOPS = {
    "es": "el los las un una unos de del que qué cómo cuál cuánto cuántos es son para por con en mi y al lo se".split(),
    "fr": "le les un une des du de que quel quelle quels est sont pour avec dans mon ma et je puis comment combien au".split(),
    "de": "der die das ein eine einen den dem des ist sind wie was wer ich mein meine für mit im und zu auf von wann in an hat haben kann nicht welche welcher wird man bei".split(),
    "pt": "o os um uma de do da que qual quanto quantos é são para por com em meu minha e ao como no na".split(),
    "it": "il lo gli un una di del della che qual quale quanto è sono per con in mio mia e al come nel".split(),
    "nl": "de het een van is zijn hoe wat wie ik mijn voor met in en op te welke hoeveel".split(),
}  # fmt: skip
_FOREIGN = {word: language for language, words in _STOPS.items() for word in words}
_AUXILIARIES = frozenset(
    "is are was were do does did can could should would will has have had may might must am shall".split()
)
_CONTRACTIONS = {
    "dont": "do not", "doesnt": "does not", "didnt": "did not", "cant": "can not", "wont": "will not",
    "isnt": "is not", "arent": "are not", "wasnt": "was not", "werent": "were not", "havent": "have not",
    "hasnt": "has not", "hadnt": "had not", "wouldnt": "would not", "couldnt": "could not",
    "shouldnt": "should not", "whats": "what is", "hows": "how is", "wheres": "where is", "whos": "who is",
    "ive": "i have", "thats": "that is", "cannot": "can not", "can't": "can not",
    "won't": "will not", "shan't": "shall not",
}  # fmt: skip
_ASKS = re.compile(
    r"\b(how (?:many|much|long|often|old|far|big|tall|fast|large|come|early|late)|why|when|where|whom?|whose|how"
    r"|for what reasons?|what(?: is| are)? the reasons?|what time|what (?:year|date|day)"
    r"|what(?: is| are)? the (?:best |easiest |right |proper |correct )?(?:way|method|procedure)s?|what|which)\b"
)
_QUESTIONS = {
    "how come": "why", "for what reason": "why", "for what reasons": "why", "what time": "when",
    "what year": "when", "what date": "when", "what day": "when", "whom": "who", "whose": "who",
    "which": "what",
}  # fmt: skip
_BOUNDS = re.compile(
    r"\b(?:(?P<ge>at least|or (?:more|later|above|higher|greater)|no (?:less|fewer|earlier)|on or after)"
    r"|(?P<le>at most|or (?:less|fewer|earlier|below|lower)|up to|no (?:more|later)|on or before)"
    r"|(?P<gt>more than|over|above|greater than|exceed\w*|later than|after|(?:long|old|high|bigg|larg)er than)"
    r"|(?P<lt>less than|fewer than|under|below|earlier than|before|(?:short|young|low|small)er than)"
    r"|(?P<eq>exactly|precisely))\b"
)
_HYPHEN = re.compile(r"(?<=[a-z])-(?=[a-z])")
_QUOTED = re.compile(r"\"([^\"]{1,400})\"|`([^`]{1,400})`|(?<!\w)'([^']{1,200})'(?!\w)")
# What is said around a question and does not change its answer.
_WRAPPERS = re.compile(
    r"^(?:\[[^\]]{1,60}\] *)?(?:you are (?:a|an) [^.:]{1,80}\. *)?(?:(?:please )?answer (?:the (?:following )?)?(?:user's )?question[^.:]{0,60}[.:] *)?"
    r"(?:(?:user|question|query|prompt|q|human) *: *)?"
    r"(?:(?:hi|hello|hey|good (?:morning|afternoon|evening)|greetings|dear)(?: there| buddy| all| everyone| team| friend| sir)?\b[ ,.!]*)?"
    r"(?:(?:i hope (?:you are|you're|this finds you) (?:doing )?well|quick (?:one|question)|sorry to bother you)[ ,.!:]*)?"
    r"(?:(?:ok|okay|so|well|right|um|uh|erm|basically|like|actually|to be honest)\b[ ,]*){0,6}"
    r"(?:(?:i (?:was|am|'m) (?:just )?wondering(?: if you (?:could|can) tell me)?|i(?:'d| would) (?:like|love) to know"
    r"|i (?:want|need) to know|(?:can|could|would|will) you (?:please |kindly )?(?:tell me|explain|help me(?: to)?|let me know|give me|show me)"
    r"|(?:please |kindly )?(?:tell me|let me know)|do you know|please|kindly)\b[ ,:]*){0,3}",
)


class Text(NamedTuple):
    """One text, as the judge compares it."""

    sequence: tuple[str, ...]
    """Stems and atoms' values, in order, wrappers gone."""
    content: dict[str, int]
    """How often each stem that carries meaning occurs."""
    function: dict[str, int]
    """The same of the small words."""
    shown: dict[str, str]
    """A stem as it stands in the text."""
    weight: float
    """Sum of the weights of `content`."""
    atoms: dict[tuple[str, str], str]
    """Kind and value of each atom, and how it is shown."""
    language: str
    """"en", another code, the name of a script, or "" where the text does not tell."""
    names: frozenset[str]
    """Stems that look like names."""
    quoted: frozenset[str]
    bounds: frozenset[str]
    """What is said of its numbers and dates: more, at least, less, at most, exactly."""
    targets: frozenset[str]
    """What stands behind a "to"."""
    negations: int
    passive: bool
    question: str
    initials: str
    """First letters of the words, to read acronyms by."""
    words: int


@cache
def _light() -> frozenset[str]:
    return frozenset(stem(word) for word in _LIGHT)


def weight_of(word: str) -> float:
    """How much a stem says, from 0 to 1; a word nobody knows says most."""
    return _LIGHT_WEIGHT if word in _light() else relations().rarity.get(word, 1.0)


@lru_cache(maxsize=4096)
def analyse(text: str) -> Text:
    """Take a text apart. Linear in its length, of which no more than 8,000 characters are read."""
    plain = unicodedata.normalize("NFKC", text[:_MOST_CHARACTERS]).replace("\u2019", "'")
    plain = plain.replace("\u2018", "'").replace("\u201c", '"').replace("\u201d", '"')
    quoted = frozenset(
        " ".join((a or b or c).lower().split()) for a, b, c in _QUOTED.findall(plain)
    ) if '"' in plain or "`" in plain or "'" in plain else frozenset()
    counted = _count(_HYPHEN.sub(" ", plain) if "-" in plain else plain)
    start = _WRAPPERS.match(counted.lower())
    body = counted[start.end() :] if start else counted
    if not body.strip(" .?!"):
        body = counted
    atoms, mixed = take_atoms(_open(tokens_of(body)))
    sequence: list[str] = []
    content: Counter[str] = Counter()
    function: Counter[str] = Counter()
    shown: dict[str, str] = {}
    names: set[str] = set()
    initials: list[str] = []
    negations = 0
    shouting = body.isupper()
    for place, piece in enumerate(mixed):
        if isinstance(piece, Atom):
            sequence.append(f"{piece.kind} {piece.value}")
            initials.append(piece.shown[0].lower())
            continue
        lower = piece.lower
        initials.append(lower[0])
        if lower in _NEGATORS:
            negations += 1
            sequence.append("not")
            continue
        if lower in _STOP:
            function[lower] += 1
            sequence.append(lower)
            continue
        base = stem(lower[:-2] if lower.endswith("'s") else lower)
        sequence.append(base)
        content[base] += 1
        shown.setdefault(base, piece.text)
        if place and piece.text[0].isupper() and not shouting:
            names.add(base)
    targets = set()
    for before, after, last in zip(sequence, sequence[1:], [*sequence[2:], ""]):
        if before == "to":
            targets.add(last if after in {"a", "an", "the"} else after)
    bounds = {match.lastgroup or "" for match in _BOUNDS.finditer(body.lower())} if atoms else set()
    language = _language(mixed)
    asked = _ASKS.search(body.lower())
    question = ""
    if asked:
        question = asked.group()
        question = _QUESTIONS.get(question, question)
        if question.startswith("what"):
            question = "why" if "reason" in question else "how" if question != "what" else "what"
    elif mixed and not isinstance(mixed[0], Atom) and mixed[0].lower in _AUXILIARIES:
        question = "whether"
    return Text(
        tuple(sequence),
        content,
        function,
        shown,
        sum(weight_of(word) for word in content),
        {(atom.kind, atom.value): atom.shown for atom in atoms},
        language,
        frozenset(names),
        quoted,
        frozenset(bounds),
        frozenset(targets),
        negations,
        "by" in function and bool(function.keys() & {"is", "are", "was", "were", "been", "be"}),
        question,
        "".join(initials),
        len(sequence),
    )


def _language(pieces: list[Token | Atom]) -> str:
    """Tell a language by its small words, or its script."""
    rarity = relations().rarity
    seen: Counter[str] = Counter()
    for piece in pieces:
        if isinstance(piece, Atom):
            continue
        if piece.kind == "wide":
            seen["cjk"] += 1
        elif piece.lower[0] > "\u024f":
            seen[unicodedata.name(piece.lower[0], "?").split(" ")[0].lower()] += 1
        else:
            small = piece.lower in _STOP or piece.lower in _light()
            seen["en"] += 2 if small else stem(piece.lower) in rarity
            if piece.lower in _FOREIGN:
                for language, words in _STOPS.items():
                    seen[language] += 2 * (piece.lower in words)
    if not seen:
        return ""
    (language, most), *others = seen.most_common(2)
    return language if not others or most > others[0][1] else ""


def _count(text: str) -> str:
    """Write number words as digits."""
    try:
        return str(alpha2digit(text, "en"))
    except ValueError:
        return text


_COUNTRIES = {
    "US": ("united", "states"), "USA": ("united", "states"), "UK": ("united", "kingdom"),
}  # fmt: skip
_PRONOUN_AFTER = frozenset(
    "which this that the no any some every each does do can should would could will must may if is "
    "another other only best good has".split()
)


def _counts(before: list[Token]) -> bool:
    """Return whether "one" after these is a number, and not a pronoun."""
    return not before or before[-1].lower not in _PRONOUN_AFTER


_SMALL = {"zero": "0"} | {
    word: str(number)
    for number, word in enumerate("two three four five six seven eight nine ten".split(), start=2)
}


def _open(tokens: list[Token]) -> list[Token]:
    """Write contractions out, and the small numbers that are left as words."""
    opened: list[Token] = []
    for token in tokens:
        lower = token.lower
        if token.kind != "word":
            opened.append(token)
        elif lower in _SMALL or (lower == "one" and _counts(opened)):
            number = _SMALL.get(lower, "1")
            opened.append(Token("number", number, number))
        elif lower in _CONTRACTIONS:
            opened += [token._replace(text=part, lower=part) for part in _CONTRACTIONS[lower].split()]
        elif token.text in _COUNTRIES:
            opened += [Token("word", word.title(), word) for word in _COUNTRIES[token.text]]
        elif lower.endswith("n't") and len(lower) > 3:  # noqa: PLR2004 - "n't" alone is a slip
            opened += [
                token._replace(text=lower[:-3], lower=lower[:-3]),
                token._replace(text="not", lower="not"),
            ]
        elif "'" in lower and lower[lower.index("'") :] in {"'s", "'re", "'ve", "'ll", "'d", "'m"}:
            cut = lower.index("'")
            opened.append(token._replace(text=token.text[:cut], lower=lower[:cut]))
        else:
            opened.append(token)
    return opened
