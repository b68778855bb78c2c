#!/usr/bin/env python3
"""What a library consists of, as a table in Markdown: benches/size.py LIBRARY

    cargo build --release -p wg-embed-capi --config 'profile.release.strip="none"'
    benches/size.py target/release/libwg_embed.so

The names of functions and constants say which crate they come from, and ours of which module. A function that was
inlined counts where it was inlined to. The other lines are sections, as a stripped library has them.
"""
import collections, re, subprocess, sys

UNMAPPED = (".bss", ".tbss", ".comment", ".relro_padding")
# A part of std that is only needed to print where a panic was, with names and lines.
SYMBOLIZER = re.compile(r"backtrace_rs|gimli|addr2line|miniz_oxide|rustc_demangle")
SECTIONS = {
    ".eh_frame": "unwinding", ".eh_frame_hdr": "unwinding", ".gcc_except_table": "unwinding",
    ".rela.dyn": "relocations", ".rela.plt": "relocations",
    ".dynsym": "names of functions", ".dynstr": "names of functions", ".gnu.hash": "names of functions",
}
WITH_SYMBOLS = (".text", ".rodata", ".data", ".data.rel.ro")


def output(*words):
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, timeout=60).stdout.decode()


def part(name):
    if SYMBOLIZER.search(name):
        return "std: symbols of a backtrace"
    if name.startswith("ring_core") or name.startswith("<ring"):
        return "ring"
    path = re.search(r"wg_embed(_ffi)?::(?:\w+::)*", name)
    if path and not re.match(r"<?(core|alloc|std)::", name):
        module = path.group().split("::")
        return "the C functions" if path.group(1) else f"wg_embed: {module[1]}" if module[1] else "wg_embed"
    if re.match(r"wg_[a-z]", name):
        return "the C functions"
    crate = re.match(r"[<&*\[]*(?:dyn |mut )?(?:drop_in_place<)?([a-z_0-9]+)::", name)
    if crate and crate.group(1) in ("core", "alloc", "std", "__rustc", "std_detect", "hashbrown"):
        return "core, alloc, std"
    return crate.group(1) if crate else "other"


def sizes(library):
    total, seen, named = collections.Counter(), set(), 0
    for line in output("nm", "--print-size", "--demangle", library).splitlines():
        symbol = re.fullmatch(r"([0-9a-f]+) ([0-9a-f]+) [tTrRdDwW] (.*)", line)
        if symbol and symbol.group(1) not in seen:
            seen.add(symbol.group(1))
            size = int(symbol.group(2), 16)
            total[part(symbol.group(3))] += size
            named += size
    for line in output("size", "--format=sysv", library).splitlines():
        words = line.split()
        if len(words) == 3 and words[0].startswith(".") and words[0] not in UNMAPPED:
            if words[0] in WITH_SYMBOLS:
                total["constants without a name"] += int(words[1])
            else:
                total[SECTIONS.get(words[0], "other")] += int(words[1])
    total["constants without a name"] -= named
    return total


def main(library):
    total = sizes(library)
    small = [name for name, size in total.items() if size < 3000 and name != "other"]
    for name in small:
        total["other"] += total.pop(name)
    print("| part | bytes |\n|---|---|")
    for name, size in sorted(total.items(), key=lambda item: (item[0] == "other", -item[1])):
        print(f"| {name} | {size:,} |")
    print(f"| **together** | **{sum(total.values()):,}** |")


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) == 2 else sys.exit(__doc__)
