#!/usr/bin/env python3
"""count_tests.py SOURCES REPORTS...: whether each folder of reports has every test, and all passed."""

import pathlib
import sys
import xml.etree.ElementTree as ElementTree

sources, *folders = map(pathlib.Path, sys.argv[1:])
expected = sum(path.read_text().count("@Test\n") for path in sources.rglob("*Test.java"))
if expected == 0:
    sys.exit("there are no tests")
for folder in folders:
    suites = [ElementTree.parse(path).getroot() for path in folder.glob("TEST-*.xml")]
    ran = sum(int(suite.get("tests")) for suite in suites)
    bad = sum(int(suite.get(kind)) for suite in suites for kind in ("failures", "errors", "skipped"))
    if ran != expected or bad:
        sys.exit(f"{folder.name}: {ran} tests ran, {bad} of them not well; there are {expected}")
    print(f"{folder.name}: {ran} tests ran")
