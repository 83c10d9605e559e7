"""The results of `run.py` as tables in Markdown."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from data import ENGLISH, WRITTEN
from policies import PARTS
from targets import MEANINGS, NOW, TODAY

from memora.judge import VERIFIED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

OURS = "memora"
_HEAD = (
    "# Memora Replay\n\n"
    "How many queries a cache answers rightly, and wrongly. Every stream starts with an empty "
    "cache; each request is looked up once, in order; on a miss its class is stored as its answer. "
    "A hit is right where both requests are of one class. *Error* is wrong hits of all requests, "
    "*false hits* are wrong hits of all hits that are judged. *H@1* is the share of requests that "
    "is served at 1 % error, at the threshold that is best in hindsight; *recall* is right hits of "
    "the requests whose class was met before; *nAUC5* is its mean over errors from 0 to 5 %. All "
    "policies see the same vectors. All data is the development side: what was tuned on it looks "
    "better here than it is.\n"
)


_DEVELOPED = "All data is the development side: what was tuned on it looks better here than it is."
_FINAL = "The data was kept back while anything was tuned."


def report(found: dict[str, Any]) -> str:
    """Return the page."""
    about = found["about"]
    lines = [_HEAD.replace(_DEVELOPED, _FINAL) if about["final"] else _HEAD]
    parts = (_targets, _frontiers, _default, _baselines, _traps, _pairs, _groups, _worded)
    for part in (*parts, _calibration, _latency, _parts, _ablation, _small, _library):
        lines += part(found)
    made = f"`{about['command']}`, {about['seconds']} s with embeddings at hand; {about['machine']}"
    lines += [f"{made}; {about['model']}; {about['verifier']}; seed {about['seed']}."]
    return "\n".join(lines) + "\n"


def fill(page: str, found: dict[str, Any]) -> str:
    """Write the tables of a page anew: what stands between `<!-- NAME -->` and `<!-- end -->`."""

    def filled(match: re.Match[str]) -> str:
        lines = PAGE[match[1]](found)
        return "\n".join([f"<!-- {match[1]} -->", "", *lines, "<!-- end -->"])

    return re.sub(rf"<!-- ({'|'.join(PAGE)}) -->.*?<!-- end -->", filled, page, flags=re.DOTALL)


def percent(value: float | None, digits: int = 1) -> str:
    """Print a share of 1."""
    return "-" if value is None else f"{100 * value:.{digits}f}"


def table(header: str, rows: Iterable[Iterable[str]], words: int = 1) -> list[str]:
    """Return the lines of a table, the first columns to the left; none without rows."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    marks = "---|" * words + "---:|" * (header.count("|") + 1 - words)
    return [f"| {header} |", f"|{marks}", *lines, ""] if lines else []


def section(title: str, note: str, lines: list[str]) -> list[str]:
    """Put a title and a note, if any, above the lines of a table; nothing without them."""
    return [f"## {title}", "", *([note, ""] if note else []), *lines] if lines else []


def _share(part: int, whole: int) -> str:
    return percent(part / whole) if whole else "-"


def _shares(of: dict[str, Any], *more: str) -> str:
    """Print hits and error, and perhaps precision, in per cent."""
    shown = [percent(of["hit_rate"]), percent(of["error"], 2)]
    return " / ".join([*shown, *(percent(of[name]) for name in more)])


def _streams(found: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name, stream in found["streams"].items():
        for policy, result in stream["policies"].items():
            if policy not in PARTS:
                yield name, policy, result


def _policies(suite: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a part of the first policy's result: the rows of a table are the same for all."""
    found: dict[str, Any] = next(iter(suite.values()), {key: {}})[key]
    return found


def _whole(found: dict[str, Any]) -> list[str]:
    """Return the policies that are measured on every stream."""
    return [name for name in _policies(found["streams"], "policies") if name not in PARTS]


def _plot(found: dict[str, Any], name: str, title: str) -> list[str]:
    return [f"![{title}]({found['about']['name']}-{name}.png)", ""]


def target_table(found: dict[str, Any]) -> list[str]:
    """Return the table of the targets, met or missed."""

    def shown(figures: Iterable[float] | None) -> str:
        return "-" if figures is None else " / ".join(f"{x:.3g}" for x in figures)

    rows = [
        [
            *(row["title"], row["file"], " / ".join(row["names"])),
            *(shown(row[key]) for key in ("today", "now", "must")),
            shown(row["aim"] or None),
            ": ".join([MEANINGS[row["met"]], *([", ".join(row["missed"])] * bool(row["missed"]))])
            if row["met"]
            else "not measured",
        ]
        for row in found["targets"]
    ]
    return table("set | development file | figures | today | now | must | aim | ", rows, 3)


def _targets(found: dict[str, Any]) -> list[str]:
    note = (
        "Figures in per cent, at the shipped threshold but for H@1. *Today* is the judge without"
        " the verifier, *now* with it, in the same run. The targets are meant for data that is kept"
        " back, for which development files stand here."
    )
    if not any(row["now"] for row in found["targets"]):
        return []
    return section("Targets", note, [*target_table(found), *_plot(found, "met", "the targets")])


def frontier_table(found: dict[str, Any]) -> list[str]:
    """Return hits at an error, by stream and policy."""
    errors, area = ("0.5", "1", "2"), "pchr_auc"
    rows = [
        [
            *(name, policy, f"{of['requests']:,}", percent(of["possible"])),
            *(percent(of[f"hits_at_{error}"]) for error in errors),
            *(percent(of["recall_at_1"]), f"{of['nauc5']:.3f}"),
            f"{of[area]:.3f}" if area in of else "-",
            f"{of['threshold_at_1']:.3f}",
        ]
        for name, policy, of in _streams(found)
        if name in ENGLISH
    ]
    header = "stream | policy | n | possible % | H@0.5 % | H@1 % | H@2 % | recall at 1 % | nAUC5"
    return table(f"{header} | P-CHR AUC | threshold at 1 %", rows, 2)


def _frontiers(found: dict[str, Any]) -> list[str]:
    lines = ["## Hits against error", "", *frontier_table(found), *_differences(found)]
    if any(name in ENGLISH for name in found["streams"]):
        lines += _plot(found, "hits", "hits against error")
        lines += ["A default beyond 5 % error is not in the picture.", ""]
    return lines


def _differences(found: dict[str, Any]) -> list[str]:
    named = {name: stream.get("difference") for name, stream in found["streams"].items()}
    named["all together"] = found.get("pooled_difference")
    rows = [
        [
            *(name, f"{100 * of['difference']:+.1f}"),
            f"{100 * of['low']:+.1f} to {100 * of['high']:+.1f}",
            percent(of["above_0"]),
        ]
        for name, of in named.items()
        if of
    ]
    header = "stream | memora minus cosine, right hits in points | 95 % interval | above 0 in %"
    made = (
        "Each at the measured point next to its 1 % error; paired bootstrap over requests, 1,000 "
        "resamples, thresholds fixed."
    )
    lines = table(header, rows)
    return [made, "", *lines] if lines else []


def default_table(found: dict[str, Any]) -> list[str]:
    """Return what is served at the shipped threshold, by stream and policy."""
    default = f"{found['about']['default']:g}"
    rows = [_point(name, policy, of["at"][default]) for name, policy, of in _streams(found)]
    return table(_POINT, rows, 2)


def thresholds_table(found: dict[str, Any]) -> list[str]:
    """Return what is served at some thresholds, by stream."""
    others = [
        [name, *(_shares(point, "precision") for _, point in sorted(of["at"].items()))]
        for name, policy, of in _streams(found)
        if policy == OURS and name in ENGLISH
    ]
    heads = sorted(next((of["at"] for _, policy, of in _streams(found) if policy == OURS), {}))
    return table(" | ".join(["stream", *heads]), others)


def _default(found: dict[str, Any]) -> list[str]:
    default, more = f"{found['about']['default']:g}", thresholds_table(found)
    told = ["Memora at other thresholds: hits / error / precision, in %.", "", *more]
    note = (
        "*Unknown*: nobody has labelled the pair; counted as a hit, and neither as right nor wrong."
        " arena_hard holds distinct prompts only: every hit is wrong. parakqc_ko (Korean) and"
        " xsid_multi (nine languages) are beyond an English model."
    )
    head = [f"## At the shipped threshold, {default}", ""]
    return [*head, *default_table(found), note, "", *(told if more else [])]


_POINT = (
    "stream | policy | hits % | right % | error % | 95 % interval | precision | false hits % "
    "| recall % | unknown %"
)


def _point(name: str, policy: str, of: dict[str, Any]) -> list[str]:
    return [
        *(name, policy, percent(of["hit_rate"]), percent(of["correct_hit_rate"])),
        percent(of["error"], 2),
        f"{percent(of['error_low'], 2)} to {percent(of['error_high'], 2)}",
        *(f"{of['precision']:.3f}", percent(of["false_hit_share"]), percent(of["recall"])),
        percent(of["unknown_share"], 2),
    ]


def _baselines(found: dict[str, Any]) -> list[str]:
    rows = []
    for name, stream in found["streams"].items():
        if name in ENGLISH:
            points = {f"cosine {key}": of for key, of in stream["static"].items()}
            points |= {f"{key}'s default": of for key, of in stream["peers"].items()}
            rows += [_point(name, policy, of) for policy, of in points.items()]
    rules = [
        [
            *(name, f"{peer['package']} {peer['version']}", peer["rule"], f"{peer['cosine']:g}"),
            "yes" if peer["asked"] else "no, as read before",
        ]
        for name, peer in found["about"]["peers"].items()
    ]
    note = (
        "Each peer's default rule, on the same vectors: not its own embedding model, and not its"
        " speed. *Asked*: the installed package was asked for the value in this run."
    )
    lines = table("name | package | rule | least cosine | asked", rules, 3)
    return section(
        "Fixed thresholds, and the defaults of others", note, lines + table(_POINT, rows, 2)
    )


def traps_table(found: dict[str, Any]) -> list[str]:
    """Return wrong and right hits by type of near miss, a row each."""
    rows, names = (
        [],
        [name for name in _policies(found["streams"], "policies") if name not in PARTS],
    )
    for stream in ("traps", "mixed"):
        policies = found["streams"].get(stream, {}).get("policies", {})
        for kind, of in _policies(policies, "traps").items():
            cells = [stream, kind, str(of["n"]), str(of["possible"])]
            for name in names:
                typed = policies[name]["traps"][kind]
                cells += [percent(typed["trap_rate"]), str(typed["right"])]
            rows.append(cells)
    header = "stream | type | n | possible"
    header += "".join(f" | {name}: wrong % | right hits" for name in names)
    return table(header, rows, 2)


def _traps(found: dict[str, Any]) -> list[str]:
    note = "Wrong hits of the requests of a type, at the shipped threshold."
    return section("Near misses, by type", note, traps_table(found))


def _pairs(found: dict[str, Any]) -> list[str]:
    rows = [
        [
            *(name, policy, str(of["n"]), str(of["unreadable"])),
            "-" if of["auc"] is None else f"{of['auc']:.3f}",
            _share(of["served_same"], of["of_same"]),
            _share(of["served_other"], of["of_other"]),
        ]
        for name, suite in found["pairs"].items()
        for policy, of in suite.items()
    ]
    note = (
        "The one text stored alone, the other one asked, at the shipped threshold. A pair with a"
        " side that the model cannot read is not served, and left out of the AUC."
    )
    header = "suite | policy | pairs | unreadable | AUC | same, served % | other, served %"
    return section("Pairs", note, table(header, rows, 2))


def _grouped(found: dict[str, Any], key: str) -> dict[str, dict[str, list[int]]]:
    """Add up a grouping of the written pairs over its suites: by group and policy."""
    groups: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0] * 4))
    for suite in found["pairs"].values():
        for policy, result in suite.items():
            for group, of in result.get(key, {}).items():
                total = groups[group][policy]
                counted = ("served_same", "of_same", "served_other", "of_other")
                total[:] = [a + of[name] for a, name in zip(total, counted, strict=True)]
    return groups


def kinds_table(found: dict[str, Any]) -> list[str]:
    """Return the traps of all written suites that are served, by kind."""
    groups, names = _grouped(found, "traps"), (TODAY, NOW, "cosine")
    rows = [
        [group, str(counts), *(percent(of[name][2] / counts) for name in names)]
        for group, of in sorted(groups.items(), key=lambda item: -item[1][NOW][3])
        if (counts := of[NOW][3])
    ]
    return table(f"kind of trap | traps | {' | '.join(f'{name} %' for name in names)}", rows)


def languages_table(found: dict[str, Any]) -> list[str]:
    """Return what is served of the written pairs, by language: repeats / traps."""
    groups, names = _grouped(found, "languages"), (TODAY, NOW, "cosine")
    rows = [
        [
            *(group, str(of[NOW][1]), str(of[NOW][3])),
            *(f"{_share(*of[name][:2])} / {_share(*of[name][2:])}" for name in names),
        ]
        for group, of in sorted(groups.items(), key=lambda item: -sum(item[1][NOW]))
        if of[NOW]
    ]
    return table(f"language | repeats | traps | {' | '.join(f'{name} %' for name in names)}", rows)


def _groups(found: dict[str, Any]) -> list[str]:
    suites = ", ".join(name for name in found["pairs"] if name in WRITTEN)
    note = f"Traps served, at the shipped threshold, of the suites {suites} together."
    other = "Repeats and traps served, of the same suites."
    return [
        *section("Written pairs, by kind of trap", note, kinds_table(found)),
        *section("Written pairs, by language", other, languages_table(found)),
    ]


def _worded(found: dict[str, Any]) -> list[str]:
    rows, names = [], (NOW, TODAY, "cosine")
    for suite in ("handwritten", "strangers"):
        policies = found["pairs"].get(suite, {})
        kinds = _policies(policies, "kinds").items()
        # What ought to be served first.
        for kind, first in sorted(kinds, key=lambda item: (not item[1]["of_same"], item[0])):
            cells = [suite, kind.replace("_", " "), "served" if first["of_same"] > 0 else "refused"]
            counts = (policies[name]["kinds"][kind] for name in names if name in policies)
            cells += [f"{of['served_same'] + of['served_other']} of {of['n']}" for of in counts]
            rows.append(cells)
    header = "suite | category | ought to be"
    header += "".join(f" | {name} serves" for name in names)
    return section("Written pairs, by category", "", table(header, rows, 3))


def ece_table(found: dict[str, Any]) -> list[str]:
    """Return the calibration error of each stream, by policy."""
    streams = {name: of["policies"] for name, of in found["streams"].items() if name in ENGLISH}
    rows = [
        [policy, *(f"{of[policy]['calibration']['ece']:.3f}" for of in streams.values())]
        for policy in _whole(found)
    ]
    return table(" | ".join(["calibration error", *streams]), rows)


def _calibration(found: dict[str, Any]) -> list[str]:
    rows = []
    for name, policy, of in _streams(found):
        if name in ENGLISH:
            cells = ["-"] * 10
            for one in of["calibration"]["bins"]:
                shown = f"{percent(one['observed'], 0)} ({one['n']})"
                cells[round(10 * one["from"])] = shown
            rows.append([name, policy, f"{of['calibration']['ece']:.3f}", *cells])
    header = "stream | policy | ECE | " + " | ".join(f"{at / 10:.1f}-" for at in range(10))
    note = (
        "Per cent of lookups whose best candidate was right, by its score (lookups in brackets), at"
        " the shipped threshold; exact repeats and unknown pairs left out. ECE: the mean distance"
        " of score and share, over ten bins; the picture leaves out those with fewer"
        " than ten lookups. A cosine claims to be no probability; its row shows"
        " what reading it as one would cost."
    )
    lines = table(header, rows, 2)
    return section(
        "Calibration", note, lines and lines + _plot(found, "calibration", "calibration")
    )


def latency_table(found: dict[str, Any]) -> list[str]:
    """Return the timings of the verifier."""
    rows = [
        [name, f"{of['median'] / 1e3:.2f}", f"{of['p95'] / 1e3:.2f}", f"{of['times']:.2f}"]
        for timings in found.get("latency", {}).get("tables", {}).values()
        for name, of in timings.items()
    ]
    return table("call | median, ms | p95, ms | times the first of its kind", rows)


def _latency(found: dict[str, Any]) -> list[str]:
    note = "`micro.py verifier`: one call at a time, in turns, each lookup of a new query."
    return section("What the verifier costs", note, latency_table(found))


def parts_table(found: dict[str, Any]) -> list[str]:
    """Return what each part of the decision reaches alone, and all together."""
    streams = [name for name, of in found["streams"].items() if PARTS[0] in of["policies"]]
    suites = [name for name, of in found["pairs"].items() if PARTS[0] in of and name in WRITTEN]
    rows = [
        [
            policy,
            *(percent(found["streams"][one]["policies"][policy]["hits_at_1"]) for one in streams),
            *(f"{found['pairs'][one][policy]['auc']:.3f}" for one in suites),
        ]
        for policy in ("cosine", *PARTS, TODAY, NOW)
        if streams or suites
    ]
    heads = [f"{name}: H@1 %" for name in streams] + [f"{name}: AUC" for name in suites]
    return table(" | ".join(["decided by", *heads]), rows)


def _parts(found: dict[str, Any]) -> list[str]:
    note = (
        "*memora* is judge, verifier and cosine as shipped. The parts are its terms, not fitted"
        f" anew; without the judge the {VERIFIED} nearest candidates are read, whatever the band."
    )
    return section("Judge, verifier and cosine apart", note, parts_table(found))


def _ablation(found: dict[str, Any]) -> list[str]:
    runs = found.get("ablation", {})
    rows: list[list[str]] = [
        [
            kind,
            *(
                f"{percent(stream['hits_at_1'])} / {stream['nauc5']:.3f}"
                for stream in of["streams"].values()
            ),
            f"{of['handwritten_auc']:.3f}",
        ]
        for kind, of in runs.items()
    ]
    header = " | ".join(["without", *_policies(runs, "streams"), "handwritten AUC"])
    note = "H@1 in % / nAUC5 of the judge when one kind of evidence is switched off."
    plot = _plot(found, "ablation", "ablation") if len(rows) > 1 else []
    return section("Without each kind of evidence", note, table(header, rows) + plot)


def _small(found: dict[str, Any]) -> list[str]:
    rows, default = [], f"{found['about']['default']:g}"
    for name, stream in found["streams"].items():
        small = stream.get("small", {})
        for policy in (key for key in small if key != "capacity"):
            few, all_kept = small[policy], stream["policies"][policy]["at"][default]
            points = (few["default"], all_kept, stream["always"][policy], few["at_1"])
            rows.append([name, policy, str(small["capacity"]), *map(_shares, points)])
    header = "stream | policy | entries kept | few kept | all kept | hits stored too"
    header += " | few kept, threshold of 1 %"
    note = (
        "Hits / error in %. *Few kept*: room for a quarter of the classes, what was stored longest"
        " ago leaves first. *Hits stored too*: as if the model were asked all the same, for"
        " comparison with those who measure so. At the shipped threshold unless it says otherwise."
    )
    return section("A small cache, and another rule to store", note, table(header, rows, 2))


def _library(found: dict[str, Any]) -> list[str]:
    rows = [
        [
            *(name, f"{of['requests']:,}"),
            percent(of["same_served"] / of["requests"], 2),
            f"{of['hits']} ({of['right']} right, {of['wrong']} wrong)",
            f"{of['replay_hits']} ({of['replay_right']} right, {of['replay_wrong']} wrong)",
            f"{of['lookup_ms_p50']:.2f} / {of['lookup_ms_p95']:.2f}",
        ]
        for name, stream in found["streams"].items()
        if (of := stream.get("library"))
    ]
    note = (
        "The numbers above come from a replay that walks precomputed neighbours. Here the same"
        " streams go through `Memora.lookup` and `store`, in RAM, at the shipped threshold. Beyond"
        " 4,096 entries the library proposes candidates by a graph, which is not exact. The time"
        " of a lookup includes no embedding."
    )
    header = "stream | requests | same entry or miss % | library: hits | replay: hits"
    header += " | lookup p50 / p95 ms"
    return section("The same through the library", note, table(header, rows))


def peers_table(found: dict[str, Any]) -> list[str]:
    """Return hits / error of the shipped threshold and of the peers' default rules."""
    streams = {name: of for name, of in found["streams"].items() if name in ENGLISH}
    default = f"{found['about']['default']:g}"
    rows = [
        [label, *(_shares(of["policies"][policy]["at"][default]) for of in streams.values())]
        for policy, label in ((NOW, "Memora"), (TODAY, "Memora without the verifier"))
    ]
    rows += [
        [
            f"{name}, cosine {peer['cosine']:g}",
            *(_shares(of["peers"][name]) for of in streams.values()),
        ]
        for name, peer in found["about"]["peers"].items()
    ]
    return table(" | ".join(["hits / wrong of all, in %", *streams]), rows)


def _picture(found: dict[str, Any], name: str, title: str) -> list[str]:
    return [f"![{title}](../benchmarks/results/{found['about']['name']}-{name}.png)", ""]


def pictures(found: dict[str, Any]) -> list[str]:
    """Return the pictures that the page begins with."""
    return [*_picture(found, "met", "Targets"), *_picture(found, "hits", "Hits against error")]


def calibration(found: dict[str, Any]) -> list[str]:
    """Return the picture of the calibration, and its errors."""
    title = "Share of right candidates over the similarity"
    return [*_picture(found, "calibration", title), *ece_table(found)]


def in_short(found: dict[str, Any]) -> list[str]:
    """Return the figures that matter most, as a paragraph."""
    default = f"{found['about']['default']:g}"
    mixed = {name: of["at"][default] for name, of in found["streams"]["mixed"]["policies"].items()}
    suites = [found["pairs"][name][NOW] for name in ("field", "strangers")]
    repeats, traps = (
        " and ".join(_share(of[f"served_{side}"], of[f"of_{side}"]) for of in suites)
        for side in ("same", "other")
    )

    def served(name: str, verb: str) -> str:
        of = mixed[name]
        return (
            f"{verb} {percent(of['hit_rate'])} % of the queries, and"
            f" {percent(of['false_hit_share'])} % of these hits are wrong"
        )

    told = (
        "**In short.** At the default threshold, on the stream nearest to real traffic (*mixed*),"
        f" {served(NOW, 'Memora serves')}; {served(TODAY, 'without its verifier it serves')}."
        f" {served('cosine', f'A cosine of {default} serves')}. Of the pairs that testers and"
        f" strangers wrote, Memora serves {repeats} % of the repeats and {traps} % of the traps."
    )
    return [told, ""]


PAGE: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "pictures": pictures,
    "short": in_short,
    "targets": target_table,
    "thresholds": thresholds_table,
    "peers": peers_table,
    "default": default_table,
    "hits": frontier_table,
    "kinds": kinds_table,
    "languages": languages_table,
    "calibration": calibration,
    "latency": latency_table,
    "parts": parts_table,
}
"""The tables of a page of the documentation, by the name of their place in it."""
