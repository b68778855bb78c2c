#!/usr/bin/env python3
"""vocabulary.py HEADER LANGUAGE KIND=FILE:PLACE...

Compares what a language names with what the header does: names, which each language spells in its way, and values.

LANGUAGE  java, swift, csharp or python
KIND      errors (wg_result_t), events (wg_event_kind_t), levels (wg_log_level_t) or counters (of wg_counters())
PLACE     java, swift, csharp: an enum or struct, or a prefix of constants that ends with "_"
          python: a class that has the names in backquotes, without values
"""

import pathlib
import re
import sys

KINDS = {
    "errors": ("wg_result_t", "WG_(?:ERR_)?"),
    "events": ("wg_event_kind_t", "WG_EVENT_"),
    "levels": ("wg_log_level_t", "WG_LOG_"),
}
# A language that has no use for them leaves them out.
OPTIONAL = {"OK", "MISSED", "INHERIT"}


# NAME(-1), NAME = -1, NAME = Type(rawValue: -1), and counters by their names.
ENTRY = r"""([A-Za-z]\w*)`?(?:\(| = (?:\w+\(rawValue: )?)(-?\d+\b|"\w+")"""
# A case of an enum that is made of the header's constant.
CASE = r"case (WG_\w+)\.rawValue: self = \.(\w+)"


def of_header(header: str, kind: str) -> dict[str, str]:
    if kind == "counters":
        text = header[header.index(" * Returns the counters of a tunnel") : header.index("wg_result_t wg_counters(")]
        return {name.upper(): f'"{name}"' for name in re.findall(r"^ \* - (\w+): ", text, re.M)}
    enum, prefix = KINDS[kind]
    body = re.search(rf"^WG_ENUM\({enum}, \w+\) {{\n(.*?)^}};", header, re.S | re.M)
    return dict(re.findall(rf"^  {prefix}(\w+) = (-?\d+),$", body[1], re.M))


def upper(name: str) -> str:
    """addrInUse, AddrInUse, addr_in_use and ADDR_IN_USE are one name."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).upper()


def of_source(source: str, place: str, known: dict[str, str]) -> dict[str, str]:
    source = re.sub(r"//[^\n]*|/\*.*?\*/", "", source, flags=re.S)
    if place.endswith("_"):
        entries = re.findall(rf"\b{place}{ENTRY}", source)
    else:
        body = re.search(rf"\b(?:enum|struct) {place}\b[^{{]*{{(.*?)^\s*}}", source, re.S | re.M)
        entries = re.findall(rf"\b{ENTRY}", body[1]) if body else []
        for constant, name in re.findall(CASE, body[1]) if body else []:
            entries.append((name, known.get(re.sub("^WG_[A-Z]+_", "", constant), constant)))
    return {upper(name): value for name, value in entries}


def of_python(source: str, place: str) -> set[str]:
    body = re.search(rf"^class {place}\b.*?(?=^\S)", source, re.S | re.M)
    return {upper(name) for name in re.findall(r"`(\w+)`", body[0])} if body else set()


def differences(header: str, language: str, kind: str, file: str, place: str) -> list[str]:
    """Returns what differs, and prints how much is the same."""
    known = of_header(header, kind)
    source = pathlib.Path(file).read_text(encoding="utf-8")
    if language == "python":
        found = {name: known.get(name, "unknown") for name in of_python(source, place)}
    else:
        found = of_source(source, place, known)
    differ = {(name, value) for name, value in known.items() ^ found.items() if name in found or name not in OPTIONAL}
    if not differ:
        print(f"{language}: {len(found)} {kind} as in the header")
    return sorted(f"{language}, {kind}, {name}: {value}" for name, value in differ)


def main() -> None:
    header, language = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"), sys.argv[2]
    differ = []
    for argument in sys.argv[3:]:
        kind, file, place = re.fullmatch(r"(\w+)=(.+):(\w+)", argument).groups()
        differ += differences(header, language, kind, file, place)
    if differ or not sys.argv[3:]:
        sys.exit("vocabulary.py: these differ from the header:\n" + "\n".join(differ))


main()
