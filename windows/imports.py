#!/usr/bin/env python3
"""imports.py HEADER WgEmbed.cs: compares the functions that C# imports with those of the header, by the number of their
parameters."""

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
print(f"csharp: {len(imported)} functions as in the header")
