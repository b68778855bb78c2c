#!/usr/bin/env bash
# Checks the words of what users read, and the length of lines:
#
#     .ci/words.sh               the repository; the rules are tested first
#     .ci/words.sh FILE...       these files only
#     .ci/words.sh --self-test   only the test of the rules
#
# - No line of a comment or of Markdown has more than 120 columns, except tables, words without a space to break at,
#   and what a program writes (docs/performance.md) or has recorded (tests/vectors/).
# - The C headers, README.md, CONTRIBUTING.md, SECURITY.md and docs/ have none of the words and phrases below. Code and
#   quoted text are not checked.
# - docs/performance.md has the text of benches/performance.md.in, from which it is generated.
#
# It needs python3 and git. The status is 1 if there is a finding, and 2 if a rule does not find what it should.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec python3 - "$@" <<'PYTHON'
import re
import subprocess
import sys

COLUMNS = 120
SLASHES = (".rs", ".c", ".h", ".cpp", ".java", ".kt", ".swift", ".cs", ".proto")
HASHES = (".py", ".pyi", ".sh", ".toml", ".yml", ".yaml", ".ci/run")
MARKDOWN = (".md", ".md.in")
GENERATED = ("docs/performance.md",)
TEMPLATE = "benches/performance.md.in"
RECORDED = ("tests/vectors/", "tests/kernel/scenarios.py")  # The docstrings of the latter are in the recordings.

# A pattern, without regard to case; what to write instead; an example that it must find.
WORDS = [
    (r"\b(nobody|somebody|whoever|whomever|whatever)\b", "name the person or thing", "whoever asks for it"),
    (r"\banew\b", "again", "numbers are handed out anew"),
    (r"\bbesides\b", "also; in addition", "every function can be used besides"),
    (r"\bmeanwhile\b", "during the call; in the meantime", "no other thread uses it meanwhile"),
    (r"\bso many\b", "as many", "so many packets have waited"),
    (r"\btoo(?=[.,;:)]|$)", "also; as well", "the log says so, too."),
    (r"(?<!there )\b(is|are|be) (none|no (mtu|endpoint|family|address))\b(?! of\b)", "is invalid; is not a",
     "if its value is none; it fails"),
    (r"\badded up\b", "bitwise OR", "values of wg_flags_t, added up"),
    (r"\bfor ever\b", "forever; without limit", "it waits for ever"),
    (r"\b(is|are) gone when\b", "valid only during the call", "it is gone when the function returns"),
    (r"\bwhat an? [\w`]+ (begins as|came to|comes to)\b", "initializer; result", "What a call came to."),
    (r"\b(for|to|by) who\b(?!m)", "for anyone who", "For who writes an app"),
    (r"^who (comes|writes|wants)\b", "begin with a verb or a noun", "Who comes from another library"),
    (r"\bgoes? on \w+ing\b|\bgoing on \w+ing\b", "continues to", "it goes on resting"),
    (r"\blead(s|ing)? astray\b", "move the endpoint", "packets must not lead astray"),
    (r"\bmay be told\b", "options of", "what the function may be told"),
    (r"\bis shown a\b", "called with", "Is shown a new socket"),
    (r"\bthe app's to (close|free)\b", "the app closes it", "it is the app's to close"),
]
# In the contract with users, things do none of this.
CONTRACT = [
    (r"\b(says?|said|saying)\b", "contains; returns; has", "as the system says"),
    (r"\b(tells?|told|telling)\b", "reports; returns", "it tells what happens"),
    (r"\b(knows?|knew)\b", "has; accepts; supports", "fields that this library does not know"),
    (r"\b(hears?|heard)\b", "receives", "each peer hears from us"),
    (r"\blooks? (at|like|for)\b", "checks; reads; uses", "the user is not looked at: it looks at nothing"),
]


def is_contract(path):
    return path.startswith("include/") or path in (
        "README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/C_API.md", "docs/COMPAT.md")


def has_words(path):
    return is_contract(path) or path.startswith("docs/") and path.endswith(".md")


def comment_in(line, marker):
    """Where a comment begins in a line, or None. A marker inside of a string is none."""
    for match in re.finditer(r"(?:^|\s)(" + marker + r")", line):
        if line[:match.start(1)].count('"') % 2 == 0:
            return match.start(1)
    return None


def prose(path, text):
    """The lines of comments or Markdown, as (number, line, the words of it)."""
    fence = block = False
    string = None  # In Python, of a string of several lines: whether it is a docstring.
    for number, line in enumerate(text.split("\n"), 1):
        if path.endswith(MARKDOWN):
            if line.lstrip().startswith("```"):
                fence = not fence
                continue
            code = fence or (line.startswith("    ") and not line.lstrip().startswith(("-", "|")))
            yield number, line, "" if code else line
        elif path.endswith(SLASHES):
            stripped = line.lstrip()
            at = comment_in(line, "//")
            if block or stripped.startswith("/*"):
                at = len(line) - len(stripped)
                block = "*/" not in line
            if at is not None:
                yield number, line, line[at:].strip("/*! ")
        else:
            begins = re.match(r'\s*r?"""', line) is not None
            inside = begins if string is None else string
            outside = string is None and not begins
            if line.count('"""') % 2 == 1:
                string = inside if string is None else None
            at = 0 if inside else comment_in(line, "#") if outside else None
            if at is not None:
                yield number, line, line[at:].strip('# "')


def findings(path, text):
    """What is wrong with a file, as (line, text)."""
    lines = []
    for number, line, words in prose(path, text):
        long = len(line) > COLUMNS and not path.startswith(RECORDED) and path not in GENERATED
        table = path.endswith(MARKDOWN) and line.lstrip().startswith("|")
        # A marker and one word.
        if long and not table and len(line.split()) > 2:
            yield number, f"{len(line)} columns"
        lines.append((number, re.sub(r"`[^`]*`|\]\([^)]*\)", lambda m: "x" * len(m.group()), words)))
    if not has_words(path):
        return
    # Phrases may be broken by the end of a line; a blank line or another list item ends them.
    text, starts = "", []
    for number, words in lines:
        starts.append((len(text), number))
        text += words.strip() + ("\n" if not words.strip() or words.endswith("|") else " ")
    text = re.sub(r'"[^"\n]{0,300}"', lambda m: "x" * len(m.group()), text)
    for pattern, better, _ in WORDS + (CONTRACT if is_contract(path) else []):
        for match in re.finditer(pattern, text, re.IGNORECASE | re.MULTILINE):
            number = [n for start, n in starts if start <= match.start()][-1]
            yield number, f"\"{match.group()}\": {better}"


def stale(template, page):
    """The lines of a template that the page made of it does not have in their order, as (line, text)."""
    rest = iter(page.split("\n"))
    for number, line in enumerate(template.split("\n"), 1):
        if "@" not in line and line not in rest:
            return [(number, f"not in {GENERATED[0]}, at least from this line on")]
    return []


def self_test():
    """Each rule finds its example, and what is allowed is not found."""
    long = "word " * 30
    bad = [("README.md", example, 1) for _, _, example in WORDS + CONTRACT]
    bad += [("include/wg_embed.h", f"/**\n * {example}\n */", 1) for _, _, example in WORDS + CONTRACT]
    bad += [
        ("docs/adr/x.md", "A line that is broken goes on\nresting.", 1),
        ("README.md", long, 1), ("docs/a.md", "```c\ncode\n```\n" + long, 1), ("src/a.rs", "/// " + long, 1),
        ("src/a.rs", "    code(); // " + long, 1), ("tests/a.py", "# " + long, 1), ("tests/a.c", "/* a\n * " + long, 1),
        ("tests/a.py", 'def f():\n    """One.\n\n    ' + long + '"""', 1), ("a.sh", "x=1 # " + long, 1),
        (".ci/run", "# " + long, 1),
    ]
    good = [
        ("README.md", "The packet is too large, and `besides` is code.\n\n    whoever in code\n\n```\nso many\n```"),
        ("README.md", "| " + long + "|"), ("docs/performance.md", long), ("tests/vectors/x/README.md", long),
        ("README.md", 'Write "X is invalid", not "X is none". There is none. It is none of them.'),
        ("include/wg_embed.h", "int whoever(void); /* returns none of them */"), ("docs/a.md", "He says so."),
        ("src/a.rs", "// whoever"), ("src/a.rs", 'let text = "' + long + '";'), ("src/a.rs", "// https://" + "x" * 130),
        ("tests/a.py", 'x = """\n' + long + '\n"""\ny = "' + long + '"'),
    ]
    wrong = [f"finds nothing in {path}: {text[:60]!r}" for path, text, _ in bad if not list(findings(path, text))]
    wrong += [f"{found} in {path}: {text[:60]!r}" for path, text in good for found in findings(path, text)]
    if stale("a\n@B@\nc", "a\nx\ny\nc") or not stale("a\n@B@\nc", "a\nx\nd") or not stale("a\nc", "c\na"):
        wrong.append("a stale page is not found, or one that is not is")
    for line in wrong:
        print(f"words.sh: {line}", file=sys.stderr)
    return not wrong


def main(arguments):
    if not self_test():
        return 2
    if arguments == ["--self-test"]:
        return 0
    tracked = subprocess.run(["git", "ls-files", "-z"], check=True, stdout=subprocess.PIPE).stdout.decode()
    paths = arguments or tracked.split("\0")
    count = 0
    for path in paths:
        if not path.endswith(SLASHES + HASHES + MARKDOWN):
            continue
        with open(path, encoding="utf-8") as file:
            for number, text in findings(path, file.read()):
                print(f"{path}:{number}: {text}")
                count += 1
    if not arguments:
        with open(TEMPLATE, encoding="utf-8") as template, open(GENERATED[0], encoding="utf-8") as page:
            for number, text in stale(template.read(), page.read()):
                print(f"{TEMPLATE}:{number}: {text}")
                count += 1
    print(f"words.sh: {count} findings", file=sys.stderr)
    return min(count, 1)


sys.exit(main(sys.argv[1:]))
PYTHON
