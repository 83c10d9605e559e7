"""Letter case: it has a meaning in literals and codes, and none in ordinary words."""

from __future__ import annotations

import pytest

from memora.judge._compare import compare
from memora.judge._text import analyse

SAME = [
    ("Where is Bern", "where is bern"),
    ("WHERE IS BERN", "where is bern"),
    ("what is NATO", "what is nato"),
    ("How does GitHub work", "how does github work"),
    ("a file of 5 GB", "a file of 5 gb"),
    ("a run of 5 KM", "a run of 5 km"),
    ("is CO toxic", "is co toxic"),
    ("is it on the TV", "is it on the Tv"),
    ("ask about C++", "ask about c++"),
    ("drive D is full", "drive d is full"),
    ('what does "Carpe Diem" mean', 'what does "carpe diem" mean'),
    ("open https://EXAMPLE.org/a", "open https://example.org/a"),
    ("mail Anna@example.org", "mail anna@example.org"),
    ("update macOS now", "update MacOS now"),
    ("a case Insensitive search", "a case insensitive search"),
    ("COPY ALL OF IT TO /TMP/NOTES NOW", "copy all of it to /tmp/notes now"),
]  # fmt: skip
DIFFERENT = [
    ("rows where grade = 'A'", "rows where grade = 'a'"),
    ("rows where name LIKE 'b%'", "rows where name LIKE 'B%'"),
    ("rows where grade IN ('Low')", "rows where grade IN ('LOW')"),
    ("what does sort -f do", "what does sort -F do"),
    ("what does regex \\d match", "what does regex \\D match"),
    ("open https://example.org/aBc", "open https://example.org/AbC"),
    ("read /srv/Data/x", "read /srv/data/x"),
    ("what is in bucket folder Logs/June", "what is in bucket folder logs/june"),
    ("value of POOL_SIZE", "value of pool_size"),
    ("call loadUserdata now", "call loadUserData now"),
    ("decode c2VjcmV0 now", "decode C2vJCmV0 now"),
    ("a link of 40 Mb per second", "a link of 40 MB per second"),
    ("a source of 7 mW", "a source of 7 MW"),
    ("7Mg of sand", "7mg of sand"),
    ("is CO toxic", "is Co toxic"),
    ("a case sensitive search for Borrow", "a case sensitive search for BORROW"),
]


@pytest.mark.parametrize(("a", "b"), SAME)
def test_case_without_a_meaning_is_no_conflict(a: str, b: str) -> None:
    features, _ = compare(analyse(a), analyse(b))

    assert not {"identifiers", "substitution", "numbers"} & features.keys()


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_case_with_a_meaning_is_a_conflict_both_ways(a: str, b: str) -> None:
    features, evidence = compare(analyse(a), analyse(b))

    assert features["identifiers"] >= 1
    assert "identifiers" in {one.kind for one in evidence}
    assert compare(analyse(b), analyse(a)).features == pytest.approx(features)
