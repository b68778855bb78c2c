#!/usr/bin/env python3
"""imports.py HEADER WgEmbed.cs: compares what C# declares with the header: functions by the number of their parameters,
and structs by the names of their fields, in order."""

import pathlib
import re
import sys

header = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")
source = pathlib.Path(sys.argv[2]).read_text(encoding="utf-8")


def functions(text: str, pattern: str) -> dict[str, int]:
    found = re.findall(pattern + r" \*?(wg_\w+)\(([^;]*?)\);", text, re.M)
    return {name: 0 if list.strip() in ("", "void") else list.count(",") + 1 for name, list in found}


declared = functions(header, r"^\w[\w ]*?")
imported = functions(source, r"static extern \w+")
differ = sorted(name for name, count in imported.items() if declared.get(name) != count)
if differ or not imported:
    sys.exit(f"imports.py: these differ from the header: {differ}")


def snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def header_fields(name: str) -> list[str]:
    body = re.search(r"^typedef struct " + name + r" \{(.*?)^\} " + name + ";", header, re.M | re.S)
    text = re.sub(r"/\*.*?\*/", "", body[1], flags=re.S) if body else ""
    return re.findall(r"(\w+)(?:\[\w+\])?;", text)


def source_fields(body: str) -> list[str]:
    return [name for names in re.findall(r"internal \w+(?:\[\])? (\w+(?:, \w+)*);", body) for name in names.split(", ")]


NAMES = {"Peer": "wg_peer_stats_t"}
pattern = r"^    \[StructLayout\(LayoutKind\.Sequential\)\]\s+internal struct (\w+) \{(.*?)(?: |^    )\}$"
structs = {name: source_fields(body) for name, body in re.findall(pattern, source, re.M | re.S)}
for name, fields in structs.items():
    expected = header_fields(NAMES.get(name, f"wg_{snake(name)}_t"))
    if not fields or [snake(field) for field in fields] != expected:
        sys.exit(f"imports.py: the fields of {name} are {fields}, and those of the header {expected}")
if source.count("[StructLayout(") != len(structs) or not structs:
    sys.exit("imports.py: there is a struct that was not found")
print(f"csharp: {len(imported)} functions and {len(structs)} structs as in the header")
