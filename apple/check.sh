#!/usr/bin/env bash
# The Swift package and the libraries for Apple's systems, as far as a Linux machine goes:
#
#     apple/check.sh           all that follows
#     apple/check.sh rust      the static library for iOS, its symbols, the XCFramework, the sink for Apple's log
#     apple/check.sh targets   the same, for macOS and the simulators as well
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

# link PLATFORM ARCHITECTURE LIBRARY...: what the system has is not looked for.
link() {
  "$lld" -dylib -arch "$2" -platform_version "$1" 15.0 15.0 -undefined dynamic_lookup -dead_strip \
    -exported_symbols_list "$out/exported" -o "$out/linked.dylib" "${@:3}"
}

# names --defined-only|--undefined-only FILE
names() { "$llvm/llvm-nm" -j --quiet --extern-only "$@" | grep -v ':$' | grep . | LC_ALL=C sort; }

# static TARGET PLATFORM ARCHITECTURE: makes a library, and looks at it. Returns 1 if Rust does not have the target.
static() {
  local library=$out/$1/libwg_embed.a
  if ! rustup target add "$1" >/dev/null 2>&1 &&
    ! rustup component add --toolchain nightly rust-src >/dev/null 2>&1; then
    skip "$1: there is neither a standard library for it nor a nightly toolchain with rust-src"
    return 1
  fi
  quiet "static-$1" apple/static.sh "$1" "$library"
  sed 's/^/_/' abi/symbols.txt >"$out/exported"
  names --defined-only "$library" | grep -v '^_wg_embed' | diff -u "$out/exported" - ||
    fail "$library: its global symbols are not those of abi/symbols.txt"
  quiet link link "$2" "$3" "$library"
  names --defined-only "$out/linked.dylib" | diff -u "$out/exported" - || fail "$library: other functions are exported"
  if grep -q "^$1 " abi/imports-apple.txt; then
    names --undefined-only "$out/linked.dylib" | diff -u <(sed -n "s/^$1 //p" abi/imports-apple.txt) - ||
      fail "$library: it needs something else of the system"
  else
    skip "what $1 needs of the system: abi/imports-apple.txt has no list of it"
  fi
  echo "ok: $1, $(stat -c %s "$library") bytes"
}

# Two libraries in Rust in one program: what the other one shares with ours must be ours no more.
beside() {
  local ours=aarch64-apple-ios/libwg_embed.a foreign=$target/aarch64-apple-ios/release/libforeign.a
  quiet foreign cargo rustc -q --locked --release -p foreign --crate-type staticlib --target aarch64-apple-ios
  echo _foreign_key_len >>"$out/exported"
  quiet beside link ios arm64 "$out/$ours" "$foreign"
  if link ios arm64 "$target/aarch64-apple-ios/release/libwg_embed.a" "$foreign" >"$out/twice.log" 2>&1 ||
    ! grep -q "duplicate symbol" "$out/twice.log"; then
    fail "symbols that are there twice are not found"
  fi
  echo "ok: beside another library in Rust"
}

rust() {
  quiet unit cargo test -q --locked -p wg-embed-apple --features oslog
  if ! rustup target add aarch64-apple-ios >/dev/null 2>&1 || ! command -v clang >/dev/null ||
    ! rustup component add llvm-tools >/dev/null 2>&1; then
    skip "libraries for Apple's systems: they need clang, and from rustup aarch64-apple-ios and llvm-tools"
    return
  fi
  llvm=$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin
  lld=$llvm/gcc-ld/ld64.lld
  (
    STUBS="-isystem $PWD/apple/Tests/Stubs" . apple/environment.sh aarch64-apple-ios "$out"
    quiet oslog cargo clippy -q --locked -p wg-embed-apple --features oslog --target aarch64-apple-ios -- -D warnings
  )
  echo "ok: the sink for Apple's log"

  local platforms=()
  static aarch64-apple-ios ios arm64
  (
    . apple/environment.sh aarch64-apple-ios "$out"
    beside
  )
  platforms+=("ios-arm64=$out/aarch64-apple-ios/libwg_embed.a")
  if [ "$1" = all ]; then
    local two=(aarch64-apple-darwin x86_64-apple-darwin)
    static "${two[0]}" macos arm64 && static "${two[1]}" macos x86_64 &&
      platforms+=("macos-arm64_x86_64=$out/${two[0]}/libwg_embed.a,$out/${two[1]}/libwg_embed.a")
    two=(aarch64-apple-ios-sim x86_64-apple-ios)
    static "${two[0]}" ios-simulator arm64 && static "${two[1]}" ios-simulator x86_64 &&
      platforms+=("ios-arm64_x86_64-simulator=$out/${two[0]}/libwg_embed.a,$out/${two[1]}/libwg_embed.a")
  fi
  for folder in "$out/package" "$out/package-again"; do
    apple/xcframework.py "$folder" include/wg_embed.h "${platforms[@]}"
  done
  diff -r "$out/package" "$out/package-again" || fail "the XCFramework is not the same twice"
  python3 -m zipfile -t "$out/package/CWgEmbed.xcframework.zip" >/dev/null
  echo "ok: the XCFramework, ${#platforms[@]} platforms"
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
  quiet example where_swift_is swiftc -typecheck -swift-version 6 -warnings-as-errors \
    -I "$scratch/debug/Modules" -I apple/Sources/CWgEmbed apple/Example/*.swift
  echo "ok: the example"
}

vocabularies
case ${1:-} in
  rust) rust ios ;;
  targets) rust all ;;
  swift) swift_package ;;
  "") rust ios && swift_package ;;
  *) fail "what is $1?" ;;
esac
