#!/usr/bin/env python3
"""Makes an XCFramework of static libraries, and an archive of it for a release of the Swift package, without Xcode.

    xcframework.py OUT HEADER NAME=LIBRARY[,LIBRARY]...

writes OUT/CWgEmbed.xcframework and OUT/CWgEmbed.xcframework.zip, and prints the target for Package.swift. NAME is as
Xcode names such folders: ios-arm64, ios-arm64_x86_64-simulator, macos-arm64_x86_64; with one library for each
architecture, in this order. The same input gives the same bytes with the same zlib.
"""

import hashlib
import pathlib
import plistlib
import shutil
import struct
import sys
import zipfile

MODULE = "CWgEmbed"
LIBRARY = "libwg_embed.a"
MODULEMAP = f"module {MODULE} {{\n  header \"wg_embed.h\"\n  export *\n}}\n"
# The type and the subtype of a processor in Mach-O.
PROCESSORS = {"arm64": (0x0100000C, 0), "x86_64": (0x01000007, 3)}
FAT_MAGIC = 0xCAFEBABE
ALIGNMENT = 3  # As a power of two: that of members of an archive.


def joined(architectures: list[str], libraries: list[bytes]) -> bytes:
    """A library for several processors, as of lipo(1)."""
    if len(libraries) == 1:
        return libraries[0]
    header = struct.pack(">II", FAT_MAGIC, len(libraries))
    offset = len(header) + 20 * len(libraries)
    contents = b""
    for architecture, library in zip(architectures, libraries, strict=True):
        contents += bytes(-(offset + len(contents)) % (1 << ALIGNMENT))
        header += struct.pack(">5I", *PROCESSORS[architecture], offset + len(contents), len(library), ALIGNMENT)
        contents += library
    return header + contents


def add(folder: pathlib.Path, header: pathlib.Path, name: str, libraries: list[pathlib.Path]) -> dict:
    """Writes the folder of one platform, and returns its entry in Info.plist."""
    platform, rest = name.split("-", 1)
    processors, _, variant = rest.partition("-")
    architectures = [known for known in PROCESSORS if known in processors]
    if len(architectures) != len(libraries):
        sys.exit(f"{name}: {len(libraries)} libraries for {len(architectures)} architectures")
    headers = folder / name / "Headers" / MODULE
    headers.mkdir(parents=True)
    (folder / name / LIBRARY).write_bytes(joined(architectures, [library.read_bytes() for library in libraries]))
    shutil.copyfile(header, headers / "wg_embed.h")
    (headers / "module.modulemap").write_text(MODULEMAP)
    entry = {
        "BinaryPath": LIBRARY,
        "HeadersPath": "Headers",
        "LibraryIdentifier": name,
        "LibraryPath": LIBRARY,
        "SupportedArchitectures": architectures,
        "SupportedPlatform": platform,
    }
    return entry | ({"SupportedPlatformVariant": variant} if variant else {})


def archive(folder: pathlib.Path, out: pathlib.Path) -> str:
    """Packs the folder, without times and owners, and returns what `swift package compute-checksum` does."""
    with zipfile.ZipFile(out, "w") as file:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(str(path.relative_to(folder.parent)), (1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o100644 << 16
            file.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED, 9)
    return hashlib.sha256(out.read_bytes()).hexdigest()


def main(out: str, header: str, *platforms: str) -> None:
    folder = pathlib.Path(out) / f"{MODULE}.xcframework"
    shutil.rmtree(folder, ignore_errors=True)
    entries = []
    for platform in sorted(platforms):
        name, libraries = platform.split("=", 1)
        entries.append(add(folder, pathlib.Path(header), name, [pathlib.Path(path) for path in libraries.split(",")]))
    info = {"AvailableLibraries": entries, "CFBundlePackageType": "XFWK", "XCFrameworkFormatVersion": "1.0"}
    (folder / "Info.plist").write_bytes(plistlib.dumps(info))
    checksum = archive(folder, folder.with_suffix(".xcframework.zip"))
    print(f'.binaryTarget(name: "{MODULE}", url: "https://ADDRESS/{MODULE}.xcframework.zip", checksum: "{checksum}")')


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
