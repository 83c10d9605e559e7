"""Analysis of one text for the judge, cached."""

from __future__ import annotations

import re
import unicodedata
from functools import cache, lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from text_to_num import alpha2digit

from memora.judge._atoms import Atom, Token, take_atoms, tokens_of
from memora.judge._formats import in_one_form
from memora.judge._language import language_of
from memora.judge._literals import bounds_of, code_of
from memora.judge._others import Marks, marks_of
from memora.judge._small_words import ARTICLES, mood_of
from memora.judge._words import UNITS, phrases, relations, stem, word_set

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from memora.judge._words import Phrase

MOST_CHARACTERS = 8_000
"""Length of the part analysed word by word; the rest is only compared for equality."""

# Texts up to this length are cached in the larger cache. A longer one takes a hundred times the
# memory.
_SHORT = 1_000
_KEPT_SHORT = 4_096
_KEPT_LONG = 64
# Sorting combining marks takes quadratic time, so the text is normalised in pieces.
_PIECE = 500

_STOP = word_set(
    "a an the this that these those of in on at to for from by as is are was were be been being am "
    "do does did done have has had having will would shall should can could may might must i me my "
    "mine we us our you your yours he him his she her it its they them their and or but if then "
    "than so such there here what which who whom whose how why when where with about into onto "
    "upon out up off over just also too very really please kindly hi hello hey thanks thank some "
    "any only ever get got let s d ll re ve m t it's there's"
)
_NO = word_set("not no never without none nothing nobody neither nor cannot except excluding")
_NEGATORS = _NO | word_set(
    "nicht kein keine keinen keiner nie niemals ohne pas jamais rien aucun aucune sans nunca sin "
    "nada ningún ninguna não nem sem non mai senza niet geen nooit zonder"
)
# Words of asking, which carry little meaning in any question.
_LIGHT = word_set(
    "explain describe tell give show list name find see know want need like help asked ask asking "
    "question wondering wonder trying guess mean sort kind kinda honestly basically whatever "
    "actually really buddy quick please kindly cheers um uh erm hmm well okay ok so right lol btw "
    "currently possibly good morning afternoon evening hope look provide return display way thing "
    "stuff much bit lot whether analyze analyse analysis data info information figures overview"
)
_LIGHT_WEIGHT = 0.1  # of a word that carries almost no meaning
_AUXILIARIES = word_set(
    "is are was were do does did can could should would will has have had may might must am shall"
)
_CONTRACTIONS = {
    "dont": "do not", "doesnt": "does not", "didnt": "did not", "cant": "can not",
    "wont": "will not", "isnt": "is not", "arent": "are not", "wasnt": "was not",
    "werent": "were not", "havent": "have not", "hasnt": "has not", "hadnt": "had not",
    "wouldnt": "would not", "couldnt": "could not", "shouldnt": "should not", "whats": "what is",
    "hows": "how is", "wheres": "where is", "whos": "who is", "ive": "i have", "thats": "that is",
    "im": "i am", "youre": "you are", "theyre": "they are", "weve": "we have",
    "youve": "you have", "theyve": "they have", "theres": "there is", "whens": "when is",
    "aint": "is not", "cannot": "can not", "can't": "can not", "won't": "will not",
    "shan't": "shall not",
}  # fmt: skip
_ENDINGS = frozenset(("'s", "'re", "'ve", "'ll", "'d", "'m"))  # dropped from a word
_COUNTRIES = {
    "US": ("united", "states"), "USA": ("united", "states"), "UK": ("united", "kingdom"),
}  # fmt: skip
# Number words that text2num leaves alone; "one" is usually a pronoun.
_SMALL = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
}
# text2num leaves these, as they have other meanings.
_ORDINALS = {"first": "1st", "second": "2nd"}
_PERIODS = frozenset(("quarter", "half"))
_BEFORE_PRONOUN = word_set(
    "which this that the no any some every each does do can should could would will must may if is "
    "another other only best good has"
)
_LONGEST_SIGNATURE = 80  # characters
# Questions about spelling, wording or translation ask for the very words.
_WORDING = frozenset(
    map(stem, ("spell", "spelling", "spelt", "word", "phrase", "translate", "translation"))
)
_IN_PHRASES = frozenset(("word", "number"))
_LONGEST_GAP = 3  # tokens between a verb and its particle: "turn the kitchen lamp on"
# Words followed by a letter; after those of the second group, "a" is never an article.
_LETTERED = frozenset(map(stem, word_set(
    "plan vitamin grade type option class drive step appendix section hepatitis group team gate "
    "building terminal platform zone schedule form exhibit figure part column row cell answer "
    "series model side version variant phase tier level line lane unit"
)))  # fmt: skip
_ONLY_LETTERED = frozenset(map(stem, ("vitamin", "hepatitis", "appendix")))
_BEING = word_set("is are was were been be")

_ASKS = re.compile(
    r"\b(how (?:many|much|long|often|old|far|big|tall|fast|large|come|early|late)"
    r"|why|when|where|whom?|whose|how"
    r"|for what reasons?|what(?: is| are)? the reasons?|what time|what (?:year|date|day)"
    r"|what(?: is| are)? the (?:best |easiest |right |proper |correct )?"
    r"(?:way|method|procedure)s?|what|which)\b"
)
_QUESTIONS = {
    "how come": "why", "for what reason": "why", "for what reasons": "why", "what time": "when",
    "what year": "when", "what date": "when", "what day": "when", "whom": "who", "whose": "who",
    "which": "what",
}  # fmt: skip
_BOUNDS = re.compile(
    r"\b(?:(?P<ge>at least|or (?:more|later|above|higher|greater)|no (?:less|fewer|earlier)"
    r"|on or after)"
    r"|(?P<le>at most|or (?:less|fewer|earlier|below|lower)|up to|no (?:more|later)|on or before)"
    r"|(?P<gt>more than|over|above|greater than|exceed\w*|later than|after"
    r"|(?:long|old|high|bigg|larg)er than)"
    r"|(?P<lt>less than|fewer than|under|below|earlier than|before"
    r"|(?:short|young|low|small)er than)"
    r"|(?P<eq>exactly|precisely))\b"
)
_OWNER = re.compile(r"\b([a-z]{2,40})(?:'s|(?<=s)')(?![a-z])")
_HYPHEN = re.compile(r"(?<=[a-z])-(?=[a-z])")
# A prefix and its word are one word: "bi-weekly" and "biweekly".
_PREFIXED = re.compile(
    r"\b(bi|semi|non|pre|post|anti|re|un|dis|de|sub|super|multi|inter|intra|hyper|hypo|macro|micro)"
    r"-(?=[a-z]{3})",
    re.IGNORECASE,
)
# After a number, text2num would read the scale as a separate number.
_SCALED = re.compile(r"(?<=\d) (?=(?:hundred|thousand|million|billion|trillion)\b)", re.IGNORECASE)
_AFTER_DIGIT = re.compile(r"(?<=\d)(?=[\u00bc-\u00be])")  # "1½" is not 11/2
_FOREIGN_DIGIT = re.compile(r"(?![0-9])\d")
_QUOTES = str.maketrans("\u2018\u2019\u201c\u201d\u2044\u2212\u2013\u2012", "''\"\"/---")
# Phrases around a question that do not change its answer.
_WRAPPERS = re.compile(
    r"^(?:\[[^\]]{1,60}\] *)?(?:you are (?:a|an) [^.:]{1,80}\. *)?"
    r"(?:(?:please )?answer (?:the (?:following )?)?(?:user's )?question[^.:]{0,60}[.:] *)?"
    r"(?:(?:user|question|query|prompt|q|human) *: *)?"
    r"(?:(?:hi|hello|hey|hiya|howdy|yo(?=,| guys)|greetings|dear"
    r"|good (?:morning|afternoon|evening|day))"
    r"(?: there| again| buddy| mate| all| everyone| everybody| guys| folks| team| friends?"
    r"| support(?: team)?| sir(?:(?: or |/)madam)?| madam| siri| alexa| google| chatgpt| claude"
    r"| assistant)?\b[ ,.!:]*)?"
    r"(?:(?:i hope (?:you are|you're|this finds you) (?:doing )?well|quick (?:one|question)"
    r"|(?:one )?(?:more )?question(?=[:,])|sorry to bother you)[ ,.!:]*)?"
    r"(?:(?:ok|okay|so|well|right|u+m+|u+h+|e+rm+|hmm+|basically|like|actually"
    r"|to be honest)\b[ ,]*){0,6}"
    r"(?:(?:i (?:was|am|'m) (?:just )?wondering(?: if you (?:could|can) tell me)?"
    r"|i(?:'d| would) (?:like|love) to know|i (?:want|need) to know"
    r"|(?:can|could|would|will) you (?:please |kindly )?"
    r"(?:tell me|explain|help me(?: to)?|let me know|give me|show me)"
    r"|(?:please |kindly )?(?:tell me|let me know)|do you know|please|kindly)\b[ ,:]*){0,3}",
)


# Thanks, or thanks and a name, after the last sentence.
_SIGNATURE = re.compile(
    r"[.!?]\s{1,9}(?:(?i:many thanks|thanks|thank you|cheers|(?:best |kind |warm )?regards"
    r"|yours sincerely|sincerely))[ ,.!\n-]{0,9}(?:[A-Z][a-z]{1,20})?[.!]?\s*\Z"
)


class Text(NamedTuple):
    """One analysed text."""

    sequence: tuple[str, ...]
    """Stems and values of atoms, in order, without wrappers."""
    content: dict[str, int]
    """Counts of the stems that carry meaning."""
    function: dict[str, int]
    """Counts of the small words."""
    shown: dict[str, str]
    """The original spelling of each stem."""
    weight: float
    """Sum of the weights of `content`."""
    atoms: dict[tuple[str, str], str]
    """Kind and value of each atom, with its original text."""
    language: str
    """See `language_of`."""
    marks: Marks
    """Of a language other than English."""
    phrased: frozenset[str]
    """Stems that replace a phrase or another spelling."""
    names: frozenset[str]
    """Stems that look like names."""
    bounds: frozenset[str]
    """Bounds on its numbers and dates: more, at least, less, at most, exactly."""
    targets: frozenset[str]
    """Words after a "to"."""
    origins: frozenset[str]
    """Words after a "from"."""
    owners: frozenset[str]
    """Stems of words with an apostrophe that makes them owners: "manager's"."""
    mood: str
    """Whether it asks what may, must or should be, or what was, is or will be; "" if unclear."""
    negations: int
    passive: bool
    """True if it has a "by" and a form of "be"."""
    question: str
    """What it asks for, such as "how many"; "whether" for yes or no, "" if it asks nothing."""
    initials: str
    """First letters of the words, to match acronyms."""
    rest: int
    """Hash of the part that is not analysed, 0 if there is none."""
    code: str
    """The text, if it has operators, or signs or letter case of code; else ""."""


def analyse(text: str) -> Text:
    """Analyse a text, in time linear in the analysed part."""
    if len(text) <= _SHORT:
        return _kept_short(text)
    # The part that is not analysed is not cached either.
    rest = hash(text[MOST_CHARACTERS:]) if len(text) > MOST_CHARACTERS else 0
    return _kept_long(text[:MOST_CHARACTERS], rest)


def weight_of(words: Iterable[str]) -> float:
    """Return the sum of the weights of stems, from 0 to 1 each; an unknown word has the most."""
    weights = _weights()
    return sum([weights.get(word, 1.0) for word in words])


def meaningful(words: Iterable[str]) -> list[str]:
    """Return the stems without those that carry almost no meaning."""
    weights = _weights()
    return [word for word in words if weights.get(word, 1.0) > _LIGHT_WEIGHT]


@cache
def _light() -> frozenset[str]:
    return frozenset(stem(word) for word in _LIGHT)


@cache
def _weights() -> dict[str, float]:
    return relations().rarity | dict.fromkeys(_light(), _LIGHT_WEIGHT)


def _analyse(text: str, rest: int = 0) -> Text:
    language = language_of(text)
    marks = marks_of(text.lower(), language)
    text = _normal(text)
    code = code_of(text)
    spaced = _HYPHEN.sub(" ", _PREFIXED.sub(r"\1", text)) if "-" in text else text
    body, lower = _unwrap(in_one_form(_count(spaced)))
    tokens, phrased = _join(_open(tokens_of(body)))
    atoms, pieces = take_atoms(tokens)
    shouting = body.isupper()
    sequence: list[str] = []
    content: dict[str, int] = {}
    function: dict[str, int] = {}
    shown: dict[str, str] = {}
    names: set[str] = set()
    negations = 0
    for piece in pieces:
        if isinstance(piece, Atom):
            sequence.append(f"{piece.kind} {piece.value}")
            continue
        word = piece.lower
        if word in _NEGATORS:
            negations += 1
            sequence.append("not")
        elif word in _STOP and not (len(word) == 1 and _is_letter(piece.text, sequence)):
            function[word] = function.get(word, 0) + 1
            sequence.append(word)
        else:
            base = stem(word)
            if sequence and not shouting and piece.text[0].isupper():
                names.add(base)
            content[base] = content.get(base, 0) + 1
            shown.setdefault(base, piece.text)
            sequence.append(base)
    weights = _weights()
    return Text(
        sequence=tuple(sequence),
        content=content,
        function=function,
        shown=shown,
        weight=sum([weights.get(word, 1.0) for word in content]),
        atoms={(atom.kind, atom.value): atom.shown for atom in atoms},
        language=language,
        marks=marks,
        phrased=phrased,
        names=frozenset(names),
        bounds=_bounds(lower).union(bounds_of(code)) if atoms else frozenset(),
        targets=_after("to", sequence) if "to" in function else frozenset(),
        origins=_after("from", sequence) if "from" in function else frozenset(),
        owners=_owners(lower) if "'" in lower else frozenset(),
        mood=mood_of(sequence),
        negations=negations,
        passive="by" in function and not _BEING.isdisjoint(function),
        question=_question(lower, pieces),
        initials="".join([
            (piece.shown if isinstance(piece, Atom) else piece.text)[0].lower()[0]
            for piece in pieces
        ]),
        rest=rest,
        code=code,
    )  # fmt: skip


def _is_letter(text: str, before: list[str]) -> bool:
    """Return whether a small word of one letter is a name, as in "vitamin D" and "plan A"."""
    if not before or text == "I":
        return False
    if text in "DMST":
        return before[-1] != "and" and len(before[-1]) > 1  # "AT&T", "U.S."
    return before[-1] in (_LETTERED if text.isupper() else _ONLY_LETTERED)


_kept_short = lru_cache(maxsize=_KEPT_SHORT)(_analyse)
_kept_long = lru_cache(maxsize=_KEPT_LONG)(_analyse)


def forget() -> None:
    """Clear the caches of analyses."""
    _kept_short.cache_clear()
    _kept_long.cache_clear()


def _normal(text: str) -> str:
    """Normalise letters, digits, quotation marks and dashes in the analysed part."""
    if not text.isascii():
        text = _AFTER_DIGIT.sub(" ", text)
        pieces = (text[at : at + _PIECE] for at in range(0, len(text), _PIECE))
        text = "".join(unicodedata.normalize("NFKC", piece) for piece in pieces)
        text = text[:MOST_CHARACTERS].translate(_QUOTES)  # one character may expand to twenty
        text = _FOREIGN_DIGIT.sub(lambda match: str(int(match[0])), text)
    return text


def _count(text: str) -> str:
    """Replace number words with digits."""
    try:
        return str(alpha2digit(_SCALED.sub("", text), "en"))
    except ValueError:  # a lone surrogate
        return text


def _unwrap(text: str) -> tuple[str, str]:
    """Return the text without its wrapper, and the same in lower case."""
    if signed := _SIGNATURE.search(text, max(0, len(text) - _LONGEST_SIGNATURE)):
        text = text[: signed.start() + 1]
    lower = text.lower()
    start = _WRAPPERS.match(lower)
    if start and len(lower) == len(text):  # "İ" becomes two characters in lower case
        body = text[start.end() :]
        if body.strip(" .?!"):
            return body, lower[start.end() :]
    return text, lower


def _open(tokens: list[Token]) -> list[Token]:
    """Expand contractions, and convert the remaining small number words."""
    opened: list[Token] = []
    for at, token in enumerate(tokens):
        kind, text, lower = token
        if kind != "word":
            opened.append(token)
        elif lower in _ORDINALS and _next(tokens, at) in _PERIODS:
            opened.append(Token("ordinal", text, _ORDINALS[lower]))
        elif lower in _SMALL and (lower != "one" or _counts(opened)):
            number = _SMALL[lower]
            opened.append(Token("number", number, number))
        elif lower in _CONTRACTIONS:
            opened += [Token(kind, part, part) for part in _CONTRACTIONS[lower].split()]
        elif text in _COUNTRIES and not _is_money(_next(tokens, at)):  # "US dollars"
            opened += [Token(kind, word.title(), word) for word in _COUNTRIES[text]]
        elif "'" not in lower:
            opened.append(token)
        elif lower.endswith("n't") and lower != "n't":
            verb = lower[: -len("n't")]
            opened += [Token(kind, verb, verb), Token(kind, "not", "not")]
        else:
            cut = lower.index("'")
            ending = lower[cut:] in _ENDINGS
            opened.append(Token(kind, text[:cut], lower[:cut]) if ending else token)
    return opened


def _join(tokens: list[Token]) -> tuple[list[Token], frozenset[str]]:
    """Replace phrases by the word that they stand for; also return the stems of these words."""
    known = phrases()
    stems = [stem(token.lower) if token.kind in _IN_PHRASES else "" for token in tokens]
    if known.keys().isdisjoint(stems) and known.keys().isdisjoint(pairwise(stems)):
        return tokens, frozenset()
    if not _WORDING.isdisjoint(stems):
        return tokens, frozenset()
    joined: list[Token] = []
    replaced: set[str] = set()
    at = 0
    while at < len(tokens):
        found = None
        for start in (*pairwise(stems[at : at + 2]), stems[at]):
            if start in known and (found := _phrase(known[start], tokens, stems, at)):
                break
        if found is None:
            joined.append(tokens[at])
            at += 1
            continue
        word, length, gap = found
        if word:
            shown = " ".join([token.text for token in tokens[at : at + length]])
            joined.append(Token("word", shown, word))
            replaced.add(stem(word))
        joined += tokens[at + length : at + length + gap]
        at += length + gap + bool(gap)
    # A text that consists only of filler is kept as it is.
    return (joined, frozenset(replaced)) if joined else (tokens, frozenset())


def _phrase(
    those: Sequence[Phrase], tokens: list[Token], stems: list[str], at: int
) -> tuple[str, int, int] | None:
    """Return the word of the phrase that begins here, its length, and the tokens in its gap."""
    for phrase in those:
        end = at + len(phrase.stems)
        if phrase.stems == tuple(stems[at:end]) and phrase.matches(
            [token.lower for token in tokens[at:end]]
        ):
            if not phrase.particle:
                return phrase.word, end - at, 0
            ahead = stems[end : end + 1 + _LONGEST_GAP]
            gap = ahead.index(phrase.particle) if phrase.particle in ahead else 0
            if gap and all(ahead[:gap]):
                return phrase.word, end - at, gap
    return None


def _next(tokens: list[Token], at: int) -> str:
    return tokens[at + 1].lower if at + 1 < len(tokens) else ""


def _is_money(word: str) -> bool:
    return word in UNITS and UNITS[word].dimension.isupper()


def _counts(before: list[Token]) -> bool:
    """Return whether "one" after these tokens is a number, not a pronoun."""
    return not before or before[-1].lower not in _BEFORE_PRONOUN


def _owners(lower: str) -> frozenset[str]:
    return frozenset(stem(match[1]) for match in _OWNER.finditer(lower))


def _after(word: str, sequence: list[str]) -> frozenset[str]:
    """Return the pieces that follow a small word, or its article."""
    found = set()
    for at, piece in enumerate(sequence[:-1]):
        if piece == word:
            behind = at + 2 if sequence[at + 1] in ARTICLES else at + 1
            found.update(sequence[behind : behind + 1])
    return frozenset(found)


def _bounds(lower: str) -> frozenset[str]:
    return frozenset(match.lastgroup or "" for match in _BOUNDS.finditer(lower))


def _question(lower: str, pieces: Sequence[Token | Atom]) -> str:
    asked = _ASKS.search(lower)
    if not asked:
        first = pieces[0] if pieces else None
        return "whether" if isinstance(first, Token) and first.lower in _AUXILIARIES else ""
    question = _QUESTIONS.get(asked[0], asked[0])
    if question == "what" or not question.startswith("what"):
        return question
    return "why" if "reason" in question else "how"
