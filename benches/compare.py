#!/usr/bin/env python3
"""Measures wg-embed beside its peers with wgbench, and writes docs/performance.md and docs/performance.svg.

    # As root; each round takes about 12 minutes, and the rest 12 more.
    WGBENCH=path/to/wgbench PEERS=path/to/peers/bin benches/compare.py run OUT [ROUNDS]
    # Only what scenarios.py measures, of some implementations or of all; needs no wgbench.
    PEERS=path/to/peers/bin benches/compare.py scenarios OUT ROUNDS [NAME...]
    # Tables and the plot from OUT.
    benches/compare.py render OUT

PEERS holds wireguard-go, gotatun, boringtun-cli and fwd (the C forwarder that is the floor). The implementations take
turns within a round, so ratios within one run are the result; absolute figures move from machine to machine.
"""
import contextlib, json, os, platform, signal, statistics, subprocess, sys

import scenarios
from pair import Pair
from plot import svg

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OURS, PLAIN = "wg-embed", "wg-embed without vnet header"
FLOOR, WITHOUT_CIPHER, WITHOUT_OFFLOAD = "fwd gso-aead", "fwd gso", "fwd naive"

# title, test, key, scale, format, whether more is better, whether it is plotted
FIGURES = [
    ("TCP, 1 stream, Mbit/s", "tcp1", "mbit_s", 1, "{:.0f}", True, True),
    ("TCP, 4 streams, Mbit/s", "tcp4", "mbit_s", 1, "{:.0f}", True, False),
    ("TCP, reverse, Mbit/s", "rev", "mbit_s", 1, "{:.0f}", True, False),
    ("TCP, both ways, sum, Mbit/s", "bidir", "mbit_s", 1, "{:.0f}", True, True),
    ("CPU of both daemons, s/GB, TCP 1", "tcp1", "cpu_s_per_GB", 1, "{:.2f}", False, True),
    ("CPU at 100 Mbit/s, s/GB", "tcp100", "cpu_s_per_GB", 1, "{:.2f}", False, False),
    ("UDP, 64 bytes, through the tunnel, 1000/s", "udp64", "through_pps", 1e-3, "{:.0f}", True, True),
    ("UDP, 64 bytes, read with 4 MiB of buffer, 1000/s", "udp64", "received_pps", 1e-3, "{:.0f}", True, False),
    ("CPU, us a packet, UDP 64 bytes", "udp64", "cpu_us", 1, "{:.1f}", False, False),
    ("ping, median, us", "ping", "median_us", 1, "{:.0f}", False, True),
    ("ping, 99th percentile, us", "ping", "p99_us", 1, "{:.0f}", False, True),
    ("UDP download of 50 Mbit/s, share that arrives", "uplink", "alone", 1, "{:.2f}", True, False),
    ("the same beside an overloaded uplink", "uplink", "during", 1, "{:.2f}", True, False),
    ("TCP under 20,000 initiations/s, relative", "floods", "20000", 1, "{:.2f}", True, True),
    ("TCP under 50,000 initiations/s, relative", "floods", "50000", 1, "{:.2f}", True, False),
    ("cold start to first answer, ms", "cold start", "median_ms", 1, "{:.1f}", False, True),
    ("at 1 Mbit/s: wake-ups a second", "light", "wakeups", 1, "{:.0f}", False, True),
    ("at 1 Mbit/s: CPU, ms/s", "light", "cpu_ms", 1, "{:.2f}", False, False),
    ("an hour of keepalives: wake-ups", "keepalives", "wakeups", 1, "{:.0f}", False, True),
    ("an hour of keepalives: CPU, ms", "keepalives", "cpu_ms", 1, "{:.1f}", False, False),
]
# The tests of the tables that compare throughput alone.
THROUGHPUT = ("tcp1", "tcp4", "rev", "bidir", "tcp100", "udp64")
WGBENCH_TESTS = "tcp1,tcp4,rev,bidir,tcp100,ping"
# Of a forwarder without a protocol only the first makes sense.
SCENARIOS = {"udp64": scenarios.udp, "light": scenarios.light, "uplink": scenarios.uplink, "floods": scenarios.floods,
             "cold start": scenarios.cold_start}
OF_FORWARDERS = ("udp64", "light")


def implementations():
    """The command that starts one end of each."""
    peers, daemon = os.environ["PEERS"], os.path.join(ROOT, "target/release/wg-embed")
    daemons = {
        OURS: daemon,
        PLAIN: f"{ROOT}/benches/plain_tun.py {daemon} {{if}}",
        "wireguard-go": f"{peers}/wireguard-go",
        "gotatun": f"{peers}/gotatun --disable-drop-privileges",
        "boringtun": f"{peers}/boringtun-cli --disable-drop-privileges",
    }
    return daemons, {FLOOR: f"{peers}/fwd gso-aead"}


def run(out, rounds):
    peers, bench = os.environ["PEERS"], os.environ["WGBENCH"]
    daemons, forwarders = implementations()
    command = [bench, "--out", out, "--veth"]
    for option, commands in (("--fwd", forwarders), ("--impl", daemons)):
        command += [word for name, start in commands.items() for word in (option, f"{name}={start}")]
    subprocess.run(command + ["--rounds", str(rounds), "--tests", WGBENCH_TESTS], check=True)
    # What they are compared with is only this, and each takes a minute.
    floors = [x for name in (WITHOUT_CIPHER, WITHOUT_OFFLOAD) for x in ("--fwd", f"{name}={peers}/{name}")]
    subprocess.run([bench, "--out", out, *floors, "--rounds", str(rounds), "--tests", "tcp1,ping"], check=True)
    subprocess.run(command + ["--scale-rounds", "1", "--tests", "idle,scale"], check=True)
    run_scenarios(out, rounds, [])


def run_scenarios(out, rounds, names):
    """Adds a round of scenarios.py at a time to the results of the implementations, which take turns."""
    daemons, forwarders = implementations()
    chosen = [name for name in (*daemons, *forwarders) if not names or name in names]
    os.makedirs(out, exist_ok=True)
    for number in range(rounds):
        for name in chosen if number % 2 == 0 else reversed(chosen):
            keep(out, name, scenario_round(name, daemons.get(name) or forwarders[name], name in forwarders))
    quiet = {name: command for name, command in daemons.items() if name in chosen}
    for name, figures in scenarios.keepalives(quiet).items():
        keep(out, name, {"keepalives": figures})


def scenario_round(name, command, forwarder):
    figures = {}
    for title, scenario in SCENARIOS.items():
        # The daemon without vnet header is started by a Python program, which would be measured instead.
        if forwarder and title not in OF_FORWARDERS or name == PLAIN and title == "cold start":
            continue
        # Each begins with new daemons. One that fails leaves the others their turn.
        try:
            with contextlib.ExitStack() as stack:
                figures[title] = scenario(Pair(stack, command, 0, forwarder))
        except (AssertionError, OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
            figures[title] = {"error": f"{type(error).__name__}: {error}"}
        print(name, title, figures[title], flush=True)
    return figures


def keep(out, name, figures):
    """wgbench reads and writes the same file, and leaves what it does not know."""
    path = os.path.join(out, f"{name}.json")
    result = {"name": name, "rounds": []}
    if os.path.exists(path):
        with open(path) as file:
            result = json.load(file)
    result.setdefault("scenarios", []).append(figures)
    with open(path, "w") as file:
        json.dump(result, file, indent=1)


def load(out):
    results = {}
    for file in sorted(os.listdir(out)):
        if file.endswith(".json"):
            with open(os.path.join(out, file)) as f:
                result = json.load(f)
            results[result["name"]] = result
    return results


def samples(result, test, key):
    rounds = result["rounds"] + result.get("scenarios", [])
    found = [r[test] for r in rounds if isinstance(r.get(test), dict) and r[test].get(key) is not None]
    quiet = [s for s in found if not s.get("dirty")]
    return [s[key] for s in (quiet or found)]


def median(values):
    return statistics.median(values) if values else None


def idle_memory(result):
    return [r["info"]["mem_idle"][0]["rss_kb"] / 1024 for r in result["rounds"] if r.get("info", {}).get("mem_idle")]


def peak_memory(result):
    return [max(m["hwm_kb"] for m in r["mem_after"]) / 1024 for r in result["rounds"] if r.get("mem_after")]


def idle(key):
    return lambda result: [r[key] for r in result.get("idle", [])]


def scale(key, unit=1):
    """With 50,000 peers."""
    found = lambda result: [r.get("50000", {}).get(key) for r in result.get("scale", [])]
    return lambda result: [value / unit for value in found(result) if value is not None]


def stripped(result):
    return [(result.get("binary") or {}).get("stripped_bytes", 0) / 1024 or None]


# title, what to find in a result, format
RESOURCES = [
    ("resident, idle, MiB", idle_memory, "{:.1f}"),
    ("resident, peak under load, MiB", peak_memory, "{:.1f}"),
    ("context switches in 30 s, idle with a session", idle("ctxsw_30s_per_daemon"), "{:.0f}"),
    ("CPU in 30 s, idle, ms", idle("cpu_ms_30s_per_daemon"), "{:.2f}"),
    ("setconf of 50,000 peers, s", scale("setconf_s"), "{:.2f}"),
    ("resident with 50,000 peers, MiB", scale("rss_kb", 1024), "{:.0f}"),
    ("CPU with 50,000 idle peers, ms/s", scale("idle_cpu_ms_per_s"), "{:.2f}"),
    ("stripped binary, KiB", stripped, "{:.0f}"),
]


def table(results, names):
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for title, test, key, scale, form, *_ in FIGURES:
        cells, ours = [], median(samples(results[OURS], test, key)) if OURS in results else None
        for name in names:
            value = median(samples(results[name], test, key))
            if value is None:
                cells.append("-")
            elif name == OURS:
                cells.append(f"**{form.format(value * scale)}**")
            elif not ours or not value:
                cells.append(form.format(value * scale))
            else:
                cells.append(f"{form.format(value * scale)} ({ours / value:.2f})")
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    for title, path, form in RESOURCES:
        values = [median([v for v in path(results[name]) if v is not None]) for name in names]
        lines.append(f"| {title} | " + " | ".join("-" if v is None else form.format(v) for v in values) + " |")
    return "\n".join(lines)


def panels(results, names):
    """The figures that are plotted, with the values of those implementations that have one."""
    for title, test, key, scale, form, more, plotted in FIGURES:
        values = [(name, median(samples(results[name], test, key))) for name in names]
        values = [(name, value * scale) for name, value in values if value is not None]
        if plotted and values:
            yield title, more, form, values


def machine():
    with open("/proc/cpuinfo") as f:
        model = next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} cores of {model}, Linux {platform.release()}"


def render(out):
    results = load(out)
    order = [OURS, "wireguard-go", "gotatun", "boringtun", FLOOR, WITHOUT_CIPHER, "veth"]
    names = [n for n in order if n in results]
    plain = [n for n in (PLAIN, "gotatun", FLOOR, WITHOUT_OFFLOAD) if n in results]
    rounds = max((len(r["rounds"]) for r in results.values()), default=0)
    text = open(os.path.join(ROOT, "benches/performance.md.in")).read()
    fields = {"MACHINE": machine(), "ROUNDS": rounds, "TABLE": table(results, names)}
    without = [f"| {t} | " + " | ".join(
        "-" if (v := median(samples(results[n], test, key))) is None else form.format(v * scale) for n in plain) + " |"
        for t, test, key, scale, form, *_ in FIGURES if test in THROUGHPUT]
    fields["PLAIN"] = "\n".join(["| | " + " | ".join(plain) + " |", "|---|" + "---|" * len(plain)] + without)
    for name, value in fields.items():
        text = text.replace(f"@{name}@", str(value))
    with open(os.path.join(ROOT, "docs/performance.md"), "w") as f:
        f.write(text)
    with open(os.path.join(ROOT, "docs/performance.svg"), "w") as f:
        f.write(svg(panels(results, [n for n in [OURS, PLAIN] + order[1:5] if n in results])))


if __name__ == "__main__":
    # So that what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    match sys.argv[1:]:
        case ["run", out, *rounds]:
            run(out, int(rounds[0]) if rounds else 3)
            render(out)
        case ["scenarios", out, rounds, *names]:
            run_scenarios(out, int(rounds), names)
        case ["render", out]:
            render(out)
        case _:
            sys.exit(__doc__)
