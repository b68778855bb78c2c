#!/usr/bin/env bash
# The Java library com.wgembed over the real native library, as far as a machine without Android goes: compiled against
# API 34, checked against API 24, and run by Robolectric on both, with packets between two tunnels over loopback.
#
#   check.sh          checks all of it
#   check.sh update   the same, and writes abi/java-api.txt, the interface that apps are compiled against
#
# Needs gcc, python3, a JDK of 17 or later and Maven, which fetches what it needs from Maven Central. What cannot run is
# skipped, and the reason printed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
out=$target/android
mkdir -p "$out/native" "$out/monitor"

fail() { echo "check.sh: $*" >&2; exit 1; }
skip() { echo "skipped: $*"; exit 0; }

java=android/java/src/main/java/com/wgembed
python3 abi/vocabulary.py include/wg_embed.h java "errors=$java/WgException.java:Code" \
  "events=$java/Hooks.java:EVENT_" "levels=$java/WgEmbed.java:LOG_" || fail "Java and the header differ"
cargo test -q --package wg-embed-jni --lib >"$out/unit.log" 2>&1 &&
  grep "test result: ok. [1-9]" "$out/unit.log" || { cat "$out/unit.log"; fail "the unit tests"; }
cargo build -q --package wg-embed-jni
nm -D --defined-only "$target/debug/libwg_embed_jni.so" | sed 's/.* //' | LC_ALL=C sort |
  diff <(LC_ALL=C sort abi/symbols.txt <(echo JNI_OnLoad)) - || fail "libwg_embed_jni.so exports something else"

for tool in java javac mvn gcc unzip; do
  command -v "$tool" >/dev/null || skip "com.wgembed in Java: there is no $tool"
done
monitor_version=1.8.0
# Its name has the version: what a kept folder has of another is not used.
monitor_jar=$out/monitor/monitor-$monitor_version.jar
maven=(mvn -B -q -f android/java/pom.xml "-Dbuild.dir=$out/maven" "-Dnative.dir=$out/native"
  "-Dmonitor.jar=$monitor_jar")
if [ ! -e "$monitor_jar" ]; then
  monitor=androidx.test:monitor:$monitor_version:aar
  "${maven[@]}" dependency:copy "-Dartifact=$monitor" "-DoutputDirectory=$out/monitor" >"$out/fetch.log" 2>&1 ||
    { tail -n 3 "$out/fetch.log"; skip "com.wgembed in Java: Maven cannot fetch $monitor"; }
  unzip -p "$out/monitor/monitor-$monitor_version.aar" classes.jar >"$monitor_jar.part"
  mv "$monitor_jar.part" "$monitor_jar"
fi

rm -rf "$out/headers" "$out/maven/classes" "$out/maven/test-classes" "$out"/maven/reports-*
javac -d "$out/headers" -h "$out/headers" android/java/src/test/java/com/wgembed/Host.java
home=$(dirname "$(dirname "$(readlink -f "$(command -v javac)")")")
gcc -std=c11 -Wall -Wextra -Werror -shared -fPIC -D_GNU_SOURCE -I"$home/include" -I"$home/include/linux" \
  -I"$out/headers" android/java/src/test/native/host.c -o "$out/native/libhost.so"
ln -sf "$target/debug/libwg_embed_jni.so" "$out/native/libwg_embed_jni.so"

timeout -k 10 2400 "${maven[@]}" test >"$out/maven.log" 2>&1 || {
  tail -n 100 "$out/maven.log"
  fail "com.wgembed in Java"
}
# Robolectric that finds no API level to run on runs nothing, and is content.
python3 android/count_tests.py android/java/src/test "$out"/maven/reports-24 "$out"/maven/reports-34
# It writes to the output of the process, which Surefire puts into .dumpstream files.
complaints=("(WARNING|FATAL ERROR) in native" "WARNING: JNI local refs")
for complaint in "${complaints[@]}"; do
  if grep -rE "$complaint" "$out"/maven/reports-*; then
    fail "the virtual machine complains"
  fi
done
rm -rf "$out"/maven/reports-*
"${maven[@]}" -Dtest=Misuse test >"$out/misuse.log" 2>&1 || { tail -n 30 "$out/misuse.log"; fail "misuse of JNI"; }
for complaint in "${complaints[@]}"; do
  grep -rqE "$complaint" "$out"/maven/reports-* || fail "misuse of JNI is not found: $complaint"
done
echo "ok: com.wgembed on API 24 and 34"
# Without the guard, the same check has to find what is newer.
if "${maven[@]}" -Dguard=none animal-sniffer:check@oldest-api >"$out/guard.log" 2>&1 ||
  ! grep -q 'setMetered' "$out/guard.log"; then
  fail "the check for API 24 finds nothing"
fi
echo "ok: nothing newer than API 24"

# What apps were compiled against. javap prints the classes in the order of their names.
(cd "$out/maven/classes" && find . -name '*.class' | LC_ALL=C sort | xargs javap -protected) |
  awk '/^Compiled from/ { next } /^[^ }].*{$/ { shown = /^public/ } shown' >"$out/java-api.txt"
[ "${1:-}" != update ] || cp "$out/java-api.txt" abi/java-api.txt
diff -u abi/java-api.txt "$out/java-api.txt" ||
  fail "the interface of com.wgembed has changed: if that is intended, android/check.sh update"
platform=$(tr : '\n' <"$out/maven/classpath" | grep '/android-all-14-.*\.jar$') ||
  fail "Maven's class path has no API 34"
# document FOLDER
document() {
  rm -rf "$1"
  javadoc -quiet -Xdoclint:all -Werror -notimestamp --release 8 -cp "$platform" -d "$1" \
    android/java/src/main/java/com/wgembed/*.java >"$out/javadoc.log" 2>&1 ||
    { grep -v 'Cannot find annotation' "$out/javadoc.log" | tail -n 20; fail "the documentation of com.wgembed"; }
}
document "$out/javadoc"
echo "ok: the interface and its documentation"

android/r8/check.sh "$out/r8" "$out/maven/classes" "$out/native" "$platform"
android/gobackend/check.sh "$out/gobackend" "$out/maven" "$out/native" "$monitor_jar"

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
# Compiled and documented once more, at another time and in another folder.
rm -rf "$out/maven-again"
"${maven[@]}" "-Dbuild.dir=$out/maven-again" compile >"$out/again.log" 2>&1 ||
  { tail -n 20 "$out/again.log"; fail "com.wgembed does not compile again"; }
document "$out/javadoc-again"
for again in "" -again; do
  mkdir -p "$out/aar$again"
  # The library of this machine stands in for Android's.
  android/aar/aar.py "$out/aar$again" "$version" "$out/maven$again/classes" android/java/src/main/java \
    "$out/javadoc$again" "x86_64=$out/native/libwg_embed_jni.so"
done
diff -r "$out/aar" "$out/aar-again" || fail "the AAR is not the same twice"
python3 -m zipfile -t "$out/aar/wgembed-$version.aar" >/dev/null
(cd "$out/aar" && sha256sum *)
echo "ok: the AAR, its sources, documentation and POM, the same twice"
