#!/usr/bin/env python3
"""Measures the userspace network and the proxy beside other stacks, and prints tables of it in Markdown.

    # As root, on a machine that does nothing else; two repeats take about 40 minutes.
    NETBENCH=path/to/net benches/userspace.py run OUT [REPEATS] [TABLE...]
    # The tables of what is in OUT.
    benches/userspace.py render OUT

NETBENCH is a harness that joins two network namespaces by a tunnel and loads the program at one end (its run.py). What
it starts is found through these variables; what is not set is left out of the tables:

    BENCH_WG_EMBED    wg-embed, a release build; the kernel's TCP at the other end uses it
    BENCH_NETLOAD     the load of the harness; BENCH_GONET: its program on wireguard-go's gVisor stack
    INTERCEPT         the example `intercept` of netstack/, a release build
    PYTHON_OURS       a Python with our wheel
    PYTHON_OLD        a Python with mitmproxy_wireguard 0.1.23
    PYTHON_NEW        a Python with mitmproxy_rs 0.12
    WIREPROXY         wireproxy

The implementations take turns within a repeat. CPU seconds are those of the process under test, for both the tunnel and
the stack, for each gigabyte; they are steadier than the throughput.
"""
import json, os, shlex, statistics, subprocess, sys
from collections import defaultdict

BASIC = ["down1", "down10", "up1", "rate10", "udp32", "hold1000"]
# Delay of each direction in ms, loss, Mbit/s.
PATHS = ["10,0,200", "10,0.001,200", "40,0,200", "40,0.001,200"]


class Subject:
    """An implementation in a role: a scenario of the harness, and what it needs."""

    def __init__(self, title, scenario, needs=(), python=None):
        self.title, self.scenario, self.needs, self.python = title, scenario, needs, python

    def is_there(self):
        return all(os.environ.get(name) for name in (*self.needs, *([self.python] if self.python else [])))

    def environment(self):
        return {**os.environ, "BENCH_PYTHON": os.environ.get(self.python or "", sys.executable)}


# Starts a proxy with wireproxy's configuration, which ours reads as well, and prints "serving" when it listens.
PROXY = r"""
config=$(mktemp)
cat >"$config" <<END
[Interface]
Address = $STACK_ADDRESS/32
PrivateKey = $PRIVATE_KEY
[Peer]
PublicKey = $PEER_PUBLIC_KEY
Endpoint = $HOST:$PORT
AllowedIPs = 0.0.0.0/0
[Socks5]
BindAddress = $LISTEN
END
(until ss -ltn | grep -q "$LISTEN"; do sleep 0.1; done; rm -f "$config"; echo serving) &
exec @PROGRAM@ -s -c "$config" 2>/dev/null
"""


def proxy(*program):
    return "socks:" + PROXY.replace("@PROGRAM@", shlex.join(program))


def subjects():
    program = lambda name: os.environ.get(name, "")
    python = [
        Subject("wg-embed", "mitmproxy_wireguard:old", python="PYTHON_OURS"),
        Subject("wg_embed.mitmproxy", "wg_embed.mitmproxy:new", python="PYTHON_OURS"),
        Subject("mitmproxy_wireguard", "mitmproxy_wireguard", python="PYTHON_OLD"),
        Subject("mitmproxy_rs", "mitmproxy_rs", python="PYTHON_NEW"),
    ]
    native = [
        Subject("wg-embed", "serve:exec " + shlex.quote(program("INTERCEPT")), ["INTERCEPT"]),
        Subject("gVisor", "gonet-serve", ["BENCH_GONET"]),
    ]
    socks = [
        Subject("wg-embed proxy", proxy(program("BENCH_WG_EMBED"), "proxy"), ["BENCH_WG_EMBED"]),
        Subject("gVisor", "gonet-socks", ["BENCH_GONET"]),
        Subject("wireproxy", proxy(program("WIREPROXY")), ["WIREPROXY"]),
    ]
    paths = [Subject("kernel", "kernel", ["BENCH_WG_EMBED"]), *native, python[2], python[3]]
    return {"python": python, "native": native, "socks": socks, "paths": paths}


def run(out, repeats, tables):
    for repeat in range(repeats):
        for table, implementations in subjects().items():
            if tables and table not in tables:
                continue
            for subject in filter(Subject.is_there, implementations):
                for path in PATHS if table == "paths" else [None]:
                    measure(out, table, subject, path, repeat)


def measure(out, table, subject, path, repeat):
    """One run of the harness, appended to OUT with the table and the title."""
    tests = ["up1", "down1"] if path else BASIC if repeat == 0 else [test for test in BASIC if test != "hold1000"]
    command = [sys.executable, os.path.join(os.environ["NETBENCH"], "run.py"), "-n", "1", "--only", ",".join(tests)]
    if path:
        command += ["-s", "6", "--path", path]
    done = subprocess.run(command + [subject.scenario], env=subject.environment(), text=True, stdout=subprocess.PIPE)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    with open(out, "a") as file:
        for line in lines:
            line |= {"table": table, "title": subject.title}
            del line["scenario"]
            print(json.dumps(line), file=file)
    state = "done" if done.returncode == 0 else f"failed with {done.returncode}"
    print(f"{table} {subject.title} {path or ''} {repeat}: {state}", file=sys.stderr)


# Test, key, title, format.
ROWS = [
    ("down1", "cpu_per_gb", "down, 1 connection, CPU s/GB", "{:.2f}"),
    ("down10", "cpu_per_gb", "down, 10 connections, CPU s/GB", "{:.2f}"),
    ("up1", "cpu_per_gb", "up, 1 connection, CPU s/GB", "{:.2f}"),
    ("down1", "mbit", "down, 1 connection, Mbit/s", "{:.0f}"),
    ("up1", "mbit", "up, 1 connection, Mbit/s", "{:.0f}"),
    ("rate10", "per_second", "connections a second, 10 at a time", "{:.0f}"),
    ("udp32", "per_second", "UDP echoes a second, 32 in flight", "{:.0f}"),
    ("up1", "rss_mb", "resident after one upload, MB", "{:.0f}"),
    ("hold1000", "rss_held_mb", "resident with 1,000 open connections, MB", "{:.0f}"),
]


def markdown(titles, rows):
    lines = ["| | " + " | ".join(titles) + " |", "|---|" + "---|" * len(titles)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def cell(values, form):
    return form.format(statistics.median(values)) if values else "-"


def render(out):
    found = defaultdict(list)  # By table, title, path, test and key.
    titles = defaultdict(dict)
    with open(out) as file:
        for line in map(json.loads, file):
            titles[line["table"]][line["title"]] = None
            for key, value in line.items():
                found[line["table"], line["title"], ",".join(line["path"] or []), line["test"], key].append(value)
    for table in ("python", "native", "socks"):
        rows = [
            [title, *(cell(found[table, name, "", test, key], form) for name in titles[table])]
            for test, key, title, form in ROWS
        ]
        rows = [row for row in rows if set(row[1:]) != {"-"}]
        if rows:
            print(f"{table}:\n\n{markdown(titles[table], rows)}\n")
    rows = []
    for test, role in (("down1", "as the sender"), ("up1", "as the receiver")):
        for path in PATHS:
            delay, loss, _ = path.split(",")
            cells = [cell(found["paths", name, path, test, "mbit"], "{:.0f}") for name in titles["paths"]]
            rows.append([f"{role}, {2 * int(delay)} ms, {float(loss):.1%} lost, Mbit/s", *cells])
    if titles["paths"]:
        print(f"paths:\n\n{markdown(titles['paths'], rows)}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["run", out, *rest]:
            run(out, int(rest[0]) if rest else 2, rest[1:])
            render(out)
        case ["render", out]:
            render(out)
        case _:
            sys.exit(__doc__)
