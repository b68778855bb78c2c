#!/usr/bin/env python3
"""codes.py HEADER FOLDER: compares the numbers that Java names with those of the header."""

import pathlib
import re
import sys

header = pathlib.Path(sys.argv[1]).read_text()
folder = pathlib.Path(sys.argv[2])


def of_header(enum: str, prefix: str) -> dict[str, int]:
    body = re.search(rf"^WG_ENUM\({enum}, \w+\) {{\n(.*?)^}};", header, re.S | re.M).group(1)
    return {name: int(value) for name, value in re.findall(rf"^  {prefix}(\w+) = (-?\d+),$", body, re.M)}


def of_java(file: str, pattern: str) -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(pattern, (folder / file).read_text())}


def compare(what: str, in_header: dict[str, int], in_java: dict[str, int]) -> bool:
    if in_header and in_header == in_java:
        print(f"{len(in_java)} {what} as in the header")
        return True
    print(f"{what}: header and Java differ in {sorted(in_header.items() ^ in_java.items())}", file=sys.stderr)
    return False


errors = of_header("wg_result_t", "WG_ERR_")
events = of_header("wg_event_kind_t", "WG_EVENT_")
del events["MISSED"]  # Of wg_next_event() alone.
levels = of_header("wg_log_level_t", "WG_LOG_")
del levels["INHERIT"]
same = [
    compare("error codes", errors, of_java("WgException.java", r"\b([A-Z_]+)\((-\d+)\)[,;]")),
    compare("events", events, of_java("Hooks.java", r"int EVENT_(\w+) = (\d+);")),
    compare("log levels", levels, of_java("WgEmbed.java", r"int LOG_(\w+) = (\d+);")),
]
sys.exit(not all(same))
