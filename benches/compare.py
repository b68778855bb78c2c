#!/usr/bin/env python3
"""Measures wg-embed beside its peers with wgbench, and writes docs/performance.md and docs/performance.svg.

    # As root; each round takes about 8 minutes.
    WGBENCH=path/to/wgbench PEERS=path/to/peers/bin benches/compare.py run OUT [ROUNDS]
    # Tables and the plot from OUT.
    benches/compare.py render OUT

PEERS holds wireguard-go, gotatun, boringtun-cli and fwd (the C forwarder that is the floor). The implementations take
turns within a round, so ratios within one run are the result; absolute figures move from machine to machine.
"""
import json, os, platform, statistics, subprocess, sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OURS, PLAIN = "wg-embed", "wg-embed without vnet header"
FLOOR, WITHOUT_CIPHER, WITHOUT_OFFLOAD = "fwd gso-aead", "fwd gso", "fwd naive"
COLOURS = {OURS: "#1b7837", PLAIN: "#5aae61", FLOOR: "#999999"}

# title, test, key, scale, format, whether more is better
FIGURES = [
    ("TCP, 1 stream, Mbit/s", "tcp1", "mbit_s", 1, "{:.0f}", True),
    ("TCP, 4 streams, Mbit/s", "tcp4", "mbit_s", 1, "{:.0f}", True),
    ("TCP, reverse, Mbit/s", "rev", "mbit_s", 1, "{:.0f}", True),
    ("TCP, both ways, sum, Mbit/s", "bidir", "mbit_s", 1, "{:.0f}", True),
    ("CPU of both daemons, s/GB, TCP 1", "tcp1", "cpu_s_per_GB", 1, "{:.2f}", False),
    ("CPU at 100 Mbit/s, s/GB", "tcp100", "cpu_s_per_GB", 1, "{:.2f}", False),
    ("UDP, 64 bytes, received, 1000/s", "udp", "rx_pps", 1e-3, "{:.0f}", True),
    ("CPU, us a packet, UDP 64 bytes", "udp", "cpu_ns_per_pkt", 1e-3, "{:.1f}", False),
    ("ping, median, us", "ping", "median_us", 1, "{:.0f}", False),
    ("ping, 99th percentile, us", "ping", "p99_us", 1, "{:.0f}", False),
]


def run(out, rounds):
    peers, bench = os.environ["PEERS"], os.environ["WGBENCH"]
    daemon = os.path.join(ROOT, "target/release/wg-embed")
    impls = {
        OURS: daemon,
        PLAIN: f"{ROOT}/benches/plain_tun.py {daemon} {{if}}",
        "wireguard-go": f"{peers}/wireguard-go",
        "gotatun": f"{peers}/gotatun --disable-drop-privileges",
        "boringtun": f"{peers}/boringtun-cli --disable-drop-privileges",
    }
    command = [bench, "--out", out, "--fwd", f"{FLOOR}={peers}/fwd gso-aead", "--veth"]
    for name, start in impls.items():
        command += ["--impl", f"{name}={start}"]
    throughput = ",".join(dict.fromkeys(f[1] for f in FIGURES))
    subprocess.run(command + ["--rounds", rounds, "--tests", throughput], check=True)
    # What they are compared with is only this, and each takes a minute.
    floors = [x for name in (WITHOUT_CIPHER, WITHOUT_OFFLOAD) for x in ("--fwd", f"{name}={peers}/{name}")]
    subprocess.run([bench, "--out", out, *floors, "--rounds", rounds, "--tests", "tcp1,ping"], check=True)
    subprocess.run(command + ["--scale-rounds", "1", "--tests", "idle,scale"], check=True)


def load(out):
    results = {}
    for file in sorted(os.listdir(out)):
        if file.endswith(".json"):
            with open(os.path.join(out, file)) as f:
                result = json.load(f)
            results[result["name"]] = result
    return results


def samples(result, test, key):
    found = [r[test] for r in result["rounds"] if isinstance(r.get(test), dict) and r[test].get(key) is not None]
    quiet = [s for s in found if not s.get("dirty")]
    return [s[key] for s in (quiet or found)]


def median(values):
    return statistics.median(values) if values else None


# title, what to find in a result, format
RESOURCES = [
    ("resident, idle, MiB", lambda r: [x["info"]["mem_idle"][0]["rss_kb"] / 1024 for x in r["rounds"] if x.get("info", {}).get("mem_idle")], "{:.1f}"),
    ("resident, peak under load, MiB", lambda r: [max(m["hwm_kb"] for m in x["mem_after"]) / 1024 for x in r["rounds"] if x.get("mem_after")], "{:.1f}"),
    ("context switches in 30 s, idle with a session", lambda r: [x["ctxsw_30s_per_daemon"] for x in r.get("idle", [])], "{:.0f}"),
    ("CPU in 30 s, idle, ms", lambda r: [x["cpu_ms_30s_per_daemon"] for x in r.get("idle", [])], "{:.2f}"),
    ("setconf of 50,000 peers, s", lambda r: [x.get("50000", {}).get("setconf_s") for x in r.get("scale", [])], "{:.2f}"),
    ("resident with 50,000 peers, MiB", lambda r: [(x.get("50000", {}).get("rss_kb") or 0) / 1024 or None for x in r.get("scale", [])], "{:.0f}"),
    ("CPU with 50,000 idle peers, ms/s", lambda r: [x.get("50000", {}).get("idle_cpu_ms_per_s") for x in r.get("scale", [])], "{:.2f}"),
    ("stripped binary, KiB", lambda r: [(r.get("binary") or {}).get("stripped_bytes", 0) / 1024 or None], "{:.0f}"),
]


def table(results, names):
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for title, test, key, scale, form, _ in FIGURES:
        cells, ours = [], median(samples(results[OURS], test, key)) if OURS in results else None
        for name in names:
            value = median(samples(results[name], test, key))
            if value is None:
                cells.append("-")
            elif name == OURS or not ours:
                cells.append(f"**{form.format(value * scale)}**")
            else:
                cells.append(f"{form.format(value * scale)} ({ours / value:.2f})")
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    for title, path, form in RESOURCES:
        values = [median([v for v in path(results[name]) if v is not None]) for name in names]
        lines.append(f"| {title} | " + " | ".join("-" if v is None else form.format(v) for v in values) + " |")
    return "\n".join(lines)


def plot(results, names):
    """One panel of bars a figure, the best first to see."""
    wide, tall, bar, panels = 860, 26, 15, []
    y = 20
    for title, test, key, scale, form, more in FIGURES:
        values = [(n, median(samples(results[n], test, key))) for n in names]
        values = [(n, v * scale) for n, v in values if v is not None]
        if not values:
            continue
        top = max(v for _, v in values)
        panels.append(f'<text x="10" y="{y}" font-weight="bold">{title} ({"more" if more else "less"} is better)</text>')
        for name, value in values:
            y += bar + 3
            colour = COLOURS.get(name, "#4393c3")
            panels.append(f'<text x="200" y="{y}" text-anchor="end">{name}</text>')
            panels.append(f'<rect x="208" y="{y - 11}" width="{value / top * 540:.1f}" height="{bar - 3}" fill="{colour}"/>')
            panels.append(f'<text x="{214 + value / top * 540:.1f}" y="{y}">{form.format(value)}</text>')
        y += tall + 8
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{y}" font-family="sans-serif" font-size="12">'
    return head + f'<rect width="{wide}" height="{y}" fill="white"/>' + "".join(panels) + "</svg>\n"


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
        for t, test, key, scale, form, _ in FIGURES[:6]]
    fields["PLAIN"] = "\n".join(["| | " + " | ".join(plain) + " |", "|---|" + "---|" * len(plain)] + without)
    for name, value in fields.items():
        text = text.replace(f"@{name}@", str(value))
    with open(os.path.join(ROOT, "docs/performance.md"), "w") as f:
        f.write(text)
    with open(os.path.join(ROOT, "docs/performance.svg"), "w") as f:
        f.write(plot(results, [n for n in [OURS, PLAIN] + order[1:5] if n in results]))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["run", out, *rounds]:
            run(out, rounds[0] if rounds else "3")
            render(out)
        case ["render", out]:
            render(out)
        case _:
            sys.exit(__doc__)
