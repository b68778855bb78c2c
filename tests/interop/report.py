"""What the suite prints: one line for each check, as soon as it is known."""

import contextlib
import re
import threading


class Failed(Exception):
    """A check did not hold; the text says what was seen."""


class Abandoned(Exception):
    """A check failed without which the rest of its scenario means nothing."""


class Note:
    """What a check adds to its own line, if it holds."""

    def __init__(self):
        self.text = ""


class Report:
    def __init__(self):
        self.lock = threading.Lock()
        self.passed = self.failed = 0

    def line(self, good, name, detail=""):
        with self.lock:
            if good:
                self.passed += 1
                print(f"ok - {name}" + (f" ({detail})" if detail else ""), flush=True)
            else:
                self.failed += 1
                print(f"FAIL - {name}: {detail}", flush=True)

    def remark(self, text):
        with self.lock:
            print(f"# {text}", flush=True)


class Checks:
    """The checks of one scenario."""

    def __init__(self, report, scenario):
        self.report, self.scenario = report, scenario

    @contextlib.contextmanager
    def check(self, name, vital=False):
        """The body is the check: it fails by raising anything. The scenario goes on, unless the check is vital."""
        name, note = f"{self.scenario}: {name}", Note()
        try:
            yield note
        except Exception as error:
            self.report.line(False, name, one_line(error))
            if vital:
                raise Abandoned from error
        else:
            self.report.line(True, name, note.text)


def one_line(error):
    text = str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"
    return re.sub(r"\s*\n\s*", " | ", text.strip())


def expect(condition, otherwise):
    if not condition:
        raise Failed(otherwise)
