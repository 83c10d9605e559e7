"""Operators, signs, ranges, brackets, patterns and the order of arguments."""

from __future__ import annotations

import pytest

from memora.judge._compare import compare
from memora.judge._literals import code_of
from memora.judge._text import analyse

CONFLICTS = {"bounds", "identifiers", "numbers", "order", "polarity", "polarity_loose", "siblings"}
SAME = [
    ("rows where height > 7", "rows where height>7"),
    ("rows where 7 < height", "rows where height > 7"),
    ("rows with height ≥ 7", "rows with height >= 7"),
    ("rows with height <> 7", "rows with height != 7"),
    ("rows with height > 7", "rows with a height over 7"),
    ("is p > q", "is q < p"),
    ("check x && y", "check x and y"),
    ("salt & pepper", "salt and pepper"),
    ("what is 6 + 7", "what is 7 + 6"),
    ("what is 18 / 3", "what is 18/3"),
    ("a rating of +4", "a rating of 4"),
    ("it is -7 degrees", "it is minus 7 degrees"),
    ("it is \u22127 degrees", "it is negative 7 degrees"),
    ("a profit of -$30", "a profit of -30 dollars"),
    ("odds of 5:2", "odds of 5 to 2"),
    ("chapters 4-9", "chapters 4 to 9"),
    ("chapters 4\u20139", "chapters 4-9"),
    ("chapters 1-9", "chapters 1-9"),
    ("sales 2018 - 2019", "sales 2018-2019"),
    ("sales -2019", "sales 2019"),
    ("see (below) now", "see below now"),
    ("call `parse` now", "call parse now"),
    ("**urgent** fix", "urgent fix"),
    ("style a <table>", "style a table"),
    ("list *.csv files", "list .csv files"),
    ("- buy oats", "* buy oats"),
    ("dial 555-0199", "dial 555 0199"),
    ("is it better to walk or to run", "is it better to walk and to run"),
    ("difference between oats and rye", "difference between oats or rye"),
    ("diff old new", "diff new old"),
    ("python sort list", "python list sort"),
    ("tar -xzf a", "tar -zxf a"),
]
DIFFERENT = [
    ("bounds", "rows where height > 7", "rows where height < 7"),
    ("bounds", "rows where height >= 7", "rows where height > 7"),
    ("bounds", "rows where height == 7", "rows where height != 7"),
    ("bounds", "rows where city = 'Bern'", "rows where city <> 'Bern'"),
    ("bounds", "rows where w > 7 and h < 3", "rows where w < 7 and h > 3"),
    ("bounds", "rows with height > 7", "rows with a height under 7"),
    ("bounds", "is p > q", "is q > p"),
    ("bounds", "run job > out", "run job >> out"),
    ("bounds", "check x && y", "check x || y"),
    ("polarity", "rooms with a desk and a lamp", "rooms with a desk or a lamp"),
    ("polarity", "rooms with desk or lamp", "rooms with desk plus lamp"),
    ("identifiers", "what is 6 + 7", "what is 6 * 7"),
    ("identifiers", "what is 8 / 2", "what is 2 / 8"),
    ("numbers", "it is -7 degrees", "it is 7 degrees"),
    ("numbers", "shares went +7%", "shares went -7%"),
    ("numbers", "a profit of -$30", "a profit of $30"),
    ("numbers", "chapters 4-9", "chapters 4-8"),
    ("numbers", "chapter 4", "chapters 4-9"),
    ("order", "odds of 5:2", "odds of 2:5"),
    ("order", "mix it 5:2", "mix it 2:5"),
    ("order", "a score of 3-1", "a score of 1-3"),
    ("order", "mv draft final", "mv final draft"),
    ("order", "cp /tmp/x /tmp/y", "cp /tmp/y /tmp/x"),
    ("order", "pow(4, 3)", "pow(3, 4)"),
    ("identifiers", "call g(x) here", "call g[x] here"),
    ("identifiers", "match [xyz] here", "match [^xyz] here"),
    ("identifiers", "explain *rest", "explain **rest"),
    ("identifiers", "git log dev..main", "git log dev...main"),
    ("identifiers", "name LIKE 'x%'", "name LIKE '%x'"),
    ("identifiers", "list *.js files", "list *.json files"),
    ("identifiers", "chmod +x run", "chmod -x run"),
    ("identifiers", "ls -t here", "ls -s here"),
    ("identifiers", "open <p> here", "open </p> here"),
    ("identifiers", "a rating of B+", "a rating of B-"),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b"), SAME)
def test_the_same_in_other_signs_is_no_conflict(a: str, b: str) -> None:
    assert not CONFLICTS & compare(analyse(a), analyse(b)).features.keys()


@pytest.mark.parametrize(("feature", "a", "b"), DIFFERENT)
def test_another_sign_is_a_conflict_both_ways(feature: str, a: str, b: str) -> None:
    features, evidence = compare(analyse(a), analyse(b))

    assert features[feature] > 0.3
    assert evidence
    assert compare(analyse(b), analyse(a)).features == pytest.approx(features)


@pytest.mark.parametrize(
    "text", ["How do I reset it?", "It's a well-known fact.", "costs 5.30, or 7%", "Is Anna in?"]
)
def test_prose_is_not_searched_for_signs(text: str) -> None:
    assert code_of(text) == ""
