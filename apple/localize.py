#!/usr/bin/env python3
"""Makes of an archive of Mach-O objects one that shares no name with another library but the named functions.

    localize.py FROM.a TO.a SYMBOLS...     SYMBOLS: files with a name on each line, such as abi/symbols.txt

As capi/localize.sh for other systems, without Apple's linker: objects stay apart, and those that the functions do not
need are left out. What the others share gets a prefix, everything else is local. The library has to be linked with
`lto = "fat"`, so that nearly all of Rust is one object. It needs `rustup component add llvm-tools`.
"""

import pathlib
import subprocess
import sys
import tempfile

PREFIX = "_wg_embed"

def run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def tools() -> pathlib.Path:
    """The folder of rustup's LLVM, which is new enough for symbols of Mach-O."""
    host = next(line.removeprefix("host: ") for line in run("rustc", "-vV").splitlines() if line.startswith("host: "))
    folder = pathlib.Path(run("rustc", "--print", "sysroot").strip()) / "lib/rustlib" / host / "bin"
    if not (folder / "llvm-objcopy").exists():
        sys.exit("localize.py needs llvm-objcopy: rustup component add llvm-tools")
    return folder


class Member:
    """An object of the archive, and its symbols."""

    def __init__(self, llvm: pathlib.Path, file: pathlib.Path) -> None:
        self.file = file
        self.needs = self.symbols(llvm, "--undefined-only")
        self.has = self.symbols(llvm, "--defined-only", "--extern-only")

    def symbols(self, llvm: pathlib.Path, *kind: str) -> set[str]:
        return set(run(str(llvm / "llvm-nm"), "--quiet", "-j", *kind, str(self.file)).split())


def needed(members: list[Member], roots: set[str]) -> list[Member]:
    """Those that a program with these symbols is linked with."""
    chosen: set[Member] = set()
    wanted = set(roots)
    while more := {member for member in members if member not in chosen and member.has & wanted}:
        chosen |= more
        wanted |= set().union(*(member.needs for member in more))
    return [member for member in members if member in chosen]


def extract(llvm: pathlib.Path, archive: str, folder: pathlib.Path) -> list[Member]:
    names = run(str(llvm / "llvm-ar"), "t", archive).split()
    if len(set(names)) != len(names):
        sys.exit(f"{archive}: two objects of one name")
    subprocess.run([llvm / "llvm-ar", "x", pathlib.Path(archive).resolve()], cwd=folder, check=True)
    for name in names:
        # Rust's own objects have bitcode as well, which other versions of LLVM cannot read, and debugging information.
        options = ["--strip-debug", "--remove-section=__LLVM,__bitcode", "--remove-section=__LLVM,__cmdline"]
        run(str(llvm / "llvm-objcopy"), *options, str(folder / name))
    return [Member(llvm, folder / name) for name in names]


def main(source: str, target: str, *lists: str) -> None:
    llvm = tools()
    keep = {f"_{name}" for file in lists for name in pathlib.Path(file).read_text().split()}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        members = needed(extract(llvm, source, folder), keep)
        missing = keep - set().union(*(member.has for member in members))
        if missing:
            sys.exit(f"{source} lacks {sorted(missing)}")
        shared = set().union(*(member.has for member in members)) & set().union(*(member.needs for member in members))
        names = {"kept": keep | shared, "renamed": {f"{name} {PREFIX}{name}" for name in shared - keep}}
        for file, lines in names.items():
            (folder / file).write_text("".join(f"{line}\n" for line in sorted(lines)))
        options = [f"--keep-global-symbols={folder / 'kept'}", f"--redefine-syms={folder / 'renamed'}"]
        for member in members:
            run(str(llvm / "llvm-objcopy"), *options, str(member.file))
        pathlib.Path(target).unlink(missing_ok=True)
        run(str(llvm / "llvm-ar"), "--format=darwin", "rcsD", target, *(str(member.file) for member in members))


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
