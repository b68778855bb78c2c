#!/usr/bin/env python3
"""Makes the AAR, its sources and its POM. The same input gives the same bytes with the same zlib, at any time.

    aar.py FOLDER VERSION CLASSES SOURCES JAVADOC [ABI=LIBRARY]..

FOLDER   where wgembed-VERSION.aar and .pom, wgembed-VERSION-sources.jar and -javadoc.jar go
CLASSES  the folder of the compiled classes
SOURCES  the folder of the Java files
JAVADOC  the folder that javadoc has made, with -notimestamp
ABI      arm64-v8a, armeabi-v7a, x86 or x86_64, and its libwg_embed_jni.so
"""

import io
import pathlib
import sys
import zipfile

ABIS = {"arm64-v8a", "armeabi-v7a", "x86", "x86_64"}
METADATA = """aarFormatVersion=1.0
aarMetadataVersion=1.0
minCompileSdk=29
minCompileSdkExtension=0
minAndroidGradlePluginVersion=1.0.0
coreLibraryDesugaringEnabled=false
"""


def archive(entries: dict[str, bytes]) -> bytes:
    """A ZIP file whose times, modes and order are always the same."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for name in sorted(entries):
            info = zipfile.ZipInfo(name, (1980, 2, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3
            info.external_attr = 0o644 << 16
            file.writestr(info, entries[name])
    return out.getvalue()


def folder(root: pathlib.Path, suffix: str) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob(f"*{suffix}") if path.is_file()}


def main() -> None:
    out, version, classes, sources, javadoc, *libraries = sys.argv[1:]
    here = pathlib.Path(__file__).parent
    entries = {
        "AndroidManifest.xml": (here / "AndroidManifest.xml").read_bytes(),
        "R.txt": b"",
        "proguard.txt": (here / "proguard.txt").read_bytes(),
        "META-INF/com/android/build/gradle/aar-metadata.properties": METADATA.encode(),
        "classes.jar": archive(folder(pathlib.Path(classes), ".class")),
    }
    for library in libraries:
        abi, path = library.split("=", 1)
        if abi not in ABIS:
            sys.exit(f"aar.py: {abi} is no ABI of Android")
        entries[f"jni/{abi}/libwg_embed_jni.so"] = pathlib.Path(path).read_bytes()
    name = pathlib.Path(out) / f"wgembed-{version}"
    files = {
        ".aar": archive(entries),
        "-sources.jar": archive(folder(pathlib.Path(sources), ".java")),
        "-javadoc.jar": archive(folder(pathlib.Path(javadoc), "")),
        ".pom": (here / "pom.xml.in").read_bytes().replace(b"@VERSION@", version.encode()),
    }
    for suffix, contents in files.items():
        pathlib.Path(f"{name}{suffix}").write_bytes(contents)


main()
