#!/usr/bin/env bash
# The Swift package and the libraries for Apple's systems, as far as a Linux machine goes:
#
#     apple/check.sh           all that follows
#     apple/check.sh rust      libraries for iOS and its simulators, their symbols, a program in C with each, the
#                              XCFramework, the sink for Apple's log
#     apple/check.sh targets   the same with all platforms of the XCFramework (platforms.txt), or those that follow
#     apple/check.sh swift     the package and its tests with Swift 6
#
# Needs rustup, clang and python3. Swift is that of the machine, or else Debian's, which is installed into a folder
# below target/ (once, by root; it needs debootstrap). What cannot run is skipped, and the reason printed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
out=$target/apple
mkdir -p "$out"

fail() { echo "check.sh: $*" >&2; exit 1; }
skip() { echo "skipped: $*"; }
# quiet NAME COMMAND...: its output is shown if it fails.
quiet() {
  local log=$out/$1.log
  shift
  "$@" >"$log" 2>&1 || { tail -n 60 "$log"; fail "$*"; }
}

# vocabulary FOLDER: compares the Swift there with the header.
vocabulary() {
  python3 abi/vocabulary.py include/wg_embed.h swift "errors=$1/WgError.swift:Code" "events=$1/Event.swift:Event" \
    "counters=$1/Counter.swift:Counter" "levels=$1/Log.swift:LogLevel"
}

# It finds what differs, of each kind.
vocabularies() {
  vocabulary apple/Sources/WgEmbed || fail "Swift and the header differ"
  local change differs=$out/differs
  for change in "WgError s/-40/-41/" "Event s/= .ended/= .other/" "Counter s/in_expired/x/" "Log s/= 5/= 6/"; do
    rm -rf "$differs"
    cp -r apple/Sources/WgEmbed "$differs"
    sed -i "${change#* }" "$differs/${change%% *}.swift"
    if vocabulary "$differs" >/dev/null 2>&1; then fail "a difference in ${change%% *}.swift is not found"; fi
  done
}

# lld ARCHITECTURE SYSTEM VERSION ARGUMENT...
lld() { "$llvm/gcc-ld/ld64.lld" -arch "$1" -platform_version "$2" "$3" "$3" -fatal_warnings -dead_strip "${@:4}"; }

# link ARCHITECTURE SYSTEM VERSION SYMBOLS OUT LIBRARY...: a shared library. What the system has is not looked for.
link() {
  lld "$1" "$2" "$3" -dylib -undefined dynamic_lookup -exported_symbols_list "$4" -o "${@:5}"
}

# names --defined-only|--undefined-only FILE
names() { "$llvm/llvm-nm" -j --quiet --extern-only "$@" | grep -v ':$' | grep . | LC_ALL=C sort; }

# systems FILE: those that its objects were built for. Older ones than LC_BUILD_VERSION have no simulator.
systems() {
  "$llvm/llvm-objdump" --macho --private-headers "$1" | awk '
    $1 == "platform" { print $2 }
    $2 == "LC_VERSION_MIN_IPHONEOS" { print "ios" }
    $2 == "LC_VERSION_MIN_MACOSX" { print "macos" }' | sort -u
}

# library TARGET ARCHITECTURE SYSTEM VERSION: what a library has, and what it needs of the system.
library() {
  local target=$1 library=$out/$1/libwg_embed.a linked=$out/$1/linked.dylib
  names --defined-only "$library" | grep -v '^_wg_embed' | diff -u "$out/exported" - ||
    fail "$library: its global symbols are not those of abi/symbols.txt"
  systems "$library" | diff <(echo "${3/-/}") - || fail "$library: built for another system"
  quiet link link "${@:2}" "$out/exported" "$linked" "$library"
  names --defined-only "$linked" | diff -u "$out/exported" - || fail "$library: other functions are exported"
  names --undefined-only "$linked" | diff -u <(sed -n "s/^$target //p" abi/imports-apple.txt) - ||
    fail "$library: what it needs of the system is not what abi/imports-apple.txt has"
  echo "ok: $target, $(stat -c %s "$library") bytes"
}

# program TARGET ARCHITECTURE SYSTEM VERSION FOLDER: links a program in C with a library of the XCFramework, whose
# header it imports as a module. A file with the names of abi/imports-apple.txt stands in for the system.
program() {
  local to=$out/$1 triple=$2-apple-$3
  {
    printf -- "--- !tapi-tbd\ntbd-version: 4\ntargets: [ %s-%s ]\n" "$2" "$3"
    printf "install-name: '/usr/lib/libSystem.B.dylib'\nexports:\n  - targets: [ %s-%s ]\n    symbols: [ " "$2" "$3"
    sed -n "s/^$1 \(.*\)/'\1', /p" abi/imports-apple.txt
    printf "dyld_stub_binder ]\n...\n"
  } >"$to/libSystem.tbd"
  clang --target="${triple/$3/${3/os/os$4}}" -Wall -Wextra -Werror -ffreestanding -fmodules \
    -fmodules-cache-path="$to/modules" -I "$5/Headers" -c apple/Tests/Link/main.c -o "$to/main.o" &&
    lld "$2" "$3" "$4" -o "$to/main" "$to/main.o" "$5/libwg_embed.a" "$to/libSystem.tbd"
}

# Two libraries in Rust in one program: what the other one shares with ours must be ours no more.
beside() {
  local ours=aarch64-apple-ios/libwg_embed.a foreign=$target/aarch64-apple-ios/release/libforeign.a
  (
    . apple/environment.sh aarch64-apple-ios "$out"
    quiet foreign cargo rustc -q --locked --release -p foreign --crate-type staticlib --target aarch64-apple-ios
  )
  local phone=(arm64 ios 15.0 "$out/exported-beside")
  { cat "$out/exported" && echo _foreign_key_len; } >"$out/exported-beside"
  quiet beside link "${phone[@]}" "$out/beside.dylib" "$out/$ours" "$foreign"
  if link "${phone[@]}" "$out/twice.dylib" "$target/aarch64-apple-ios/release/libwg_embed.a" "$foreign" \
    >"$out/twice.log" 2>&1 || ! grep -q "duplicate symbol" "$out/twice.log"; then
    fail "symbols that are there twice are not found"
  fi
  echo "ok: beside another library in Rust"
}

# The log of Apple's systems, which the XCFramework is without.
oslog() {
  (
    STUBS="-isystem $PWD/apple/Tests/Stubs" . apple/environment.sh aarch64-apple-ios "$out"
    quiet oslog cargo clippy -q --locked -p wg-embed-apple --features oslog --target aarch64-apple-ios -- -D warnings
  )
  echo "ok: the sink for Apple's log"
}

# The rows of a platform: target, architecture, system, oldest version.
of() { sed -n "s/^$1 //p" apple/platforms.txt; }

# rust PLATFORM...: of apple/platforms.txt.
rust() {
  quiet unit cargo test -q --locked -p wg-embed-apple --features oslog
  if ! command -v clang >/dev/null || ! rustup component add llvm-tools >/dev/null 2>&1; then
    skip "libraries for Apple's systems: they need clang, and llvm-tools from rustup"
    return
  fi
  llvm=$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin

  local platform name rest platforms=()
  for platform; do
    # The target of each line; the first failure is the reason.
    if (while read -r name rest; do . apple/environment.sh "$name" "$out" || exit 1; done < <(of "$platform")) \
      2>"$out/std.log"; then
      platforms+=("$platform")
    else
      skip "$platform: $(tail -n 1 "$out/std.log")"
    fi
  done
  [ ${#platforms[@]} -gt 0 ] || return 0
  sed 's/^/_/' abi/symbols.txt >"$out/exported"
  quiet build apple/build.sh "$out/package" "${platforms[@]}"
  for platform in "${platforms[@]}"; do
    while read -r name rest; do
      # shellcheck disable=SC2086 # Architecture, system, version.
      library "$name" $rest
      # shellcheck disable=SC2086
      quiet program program "$name" $rest "$out/package/CWgEmbed.xcframework/$platform"
    done < <(of "$platform")
  done
  echo "ok: a program in C with each of them"
  quiet again apple/build.sh "$out/package-again" "${platforms[@]}"
  diff -r "$out/package" "$out/package-again" || fail "the XCFramework is not the same twice"
  python3 -m zipfile -t "$out/package/CWgEmbed.xcframework.zip" >/dev/null
  echo "ok: the XCFramework: ${platforms[*]}"
  sha256sum "$out"/package*/CWgEmbed.xcframework.zip
  if [ "${platforms[0]}" = ios-arm64 ]; then
    beside
    oslog
  fi
}

# Runs a command where Swift is: on this machine, or in Debian's folder, with this repository at its own path.
where_swift_is() {
  if command -v swift >/dev/null; then
    "$@"
    return
  fi
  unshare --mount --propagation private sh -ec '
    root=$1
    shift
    mkdir -p "$root$PWD"
    mount --bind "$PWD" "$root$PWD"
    mount --bind "$TARGET" "$root$TARGET"
    mount --bind /dev "$root/dev"
    mount -t proc proc "$root/proc"
    exec chroot "$root" /bin/sh -ec "cd \"\$0\"; exec \"\$@\"" "$PWD" "$@"' sh "$debian" "$@"
}

# Debian 13 has Swift 6; the machine may have an older Debian.
install_swift() {
  command -v swift >/dev/null && return
  [ -x "$debian/usr/bin/swiftc" ] && return
  if [ "$(id -u)" != 0 ] || ! command -v debootstrap >/dev/null; then
    echo "it is not installed, and for Debian's this has to be root and have debootstrap" >"$out/install.log"
    return 1
  fi
  rm -rf "$debian"
  {
    debootstrap --variant=minbase trixie "$debian" && cp /etc/resolv.conf "$debian/etc/" &&
      where_swift_is env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends swiftlang g++
  } >"$out/install.log" 2>&1
}

# Writes the programs of README.md, whose blocks begin with "```swift NAME.swift", into a folder.
samples() {
  rm -rf "$1"
  mkdir -p "$1"
  awk -v folder="$1" '
    /^ *```/ && file { file = ""; next }
    /^ *```swift/ {
      if (NF != 2) { print "README.md:" FNR ": this block has no name"; exit 1 }
      file = folder "/" $2
      indent = index($0, "`") - 1
      next
    }
    file { print substr($0, indent + 1) >file }' apple/README.md
}

# Each program of README.md alone, and the two files of the example together, as they stand there.
examples() {
  local folder=$out/samples file
  local check=(where_swift_is swiftc -typecheck -swift-version 6 -warnings-as-errors
    -I "$scratch/debug/Modules" -I apple/Sources/CWgEmbed)
  samples "$folder" || fail "the programs of apple/README.md"
  for file in "$folder"/*.swift; do quiet sample "${check[@]}" "$file"; done
  quiet example "${check[@]}" apple/Example/*.swift
  # What is wrong is found, and so is what is not fit for several threads.
  sed 's/adapter.start(/adapter.begin(/' "$folder/PacketTunnelProvider.swift" >"$folder/wrong"
  sed 's/@escaping @Sendable/@escaping/' "$folder/WithoutAdapter.swift" >"$folder/unsafe"
  for file in "$folder/wrong" "$folder/unsafe"; do
    mv "$file" "$file.swift"
    if "${check[@]}" "$file.swift" >"$out/wrong.log" 2>&1 || ! grep -q "error:" "$out/wrong.log"; then
      fail "what is wrong in $file.swift is not found"
    fi
  done
  echo "ok: the example, and the programs of apple/README.md"
}

swift_package() {
  debian=$target/swift/root
  export TARGET=$target
  mkdir -p "$debian$target"
  if ! install_swift; then
    skip "the Swift package: no Swift 6: $(tail -n 1 "$out/install.log")"
    return
  fi
  cargo build -q --locked -p wg-embed-capi
  local libraries=$target/debug scratch=$out/swift
  local flags=(--package-path apple --scratch-path "$scratch" --disable-sandbox
    -Xlinker "-L$libraries" -Xlinker -rpath -Xlinker "$libraries" -Xswiftc -warnings-as-errors)
  quiet swift-build where_swift_is timeout 1800 swift build --build-tests "${flags[@]}"
  quiet swift-test where_swift_is timeout 1800 swift test --skip-build "${flags[@]}"
  local expected
  expected=$(cat apple/Tests/*Tests/*.swift | grep -c '^  func test')
  grep -Eq "Executed $expected tests, with ([0-9]+ tests? skipped and )?0 failures" "$out/swift-test.log" ||
    fail "not all of $expected tests have run: $(grep Executed "$out/swift-test.log")"
  sed -n 's/.*Test skipped/skipped/p' "$out/swift-test.log"
  echo "ok: $expected tests in Swift"
  examples
}

vocabularies
# A library takes about a minute of processor time: .ci/run makes three of the five.
usual=(ios-arm64 ios-arm64_x86_64-simulator)
mapfile -t all < <(grep -v '^#' apple/platforms.txt | cut -d ' ' -f 1 | uniq)
case ${1:-} in
  rust) rust "${usual[@]}" ;;
  targets) shift && rust "${@:-${all[@]}}" ;;
  swift) swift_package ;;
  "") rust "${usual[@]}" && swift_package ;;
  *) fail "what is $1?" ;;
esac
