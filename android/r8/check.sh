#!/usr/bin/env bash
# check.sh OUT CLASSES LIBRARIES ANDROID: whether the consumer rules keep what has to be kept. An app and the library
# are shrunk together by R8, as Gradle does it, and run with the real native library; and once without the rules, when
# that fails. Library and sample/ become dex, compiled against ANDROID, the jar of API 34.
set -euo pipefail
out=$1 classes=$2 libraries=$3 android=$4
here=$(dirname "${BASH_SOURCE[0]}")
version=8.7.18
r8=$out/r8-$version.jar
fail() { echo "check.sh: $*" >&2; exit 1; }

mkdir -p "$out"
rm -rf "$out/app" "$out/stubs"
# Google's own repository has it, and so have mirrors of Maven Central.
[ -e "$r8" ] || mvn -B -q dependency:copy "-Dartifact=com.android.tools:r8:$version" "-DoutputDirectory=$out" \
  >"$out/fetch.log" 2>&1 || { echo "skipped: shrinking: Maven cannot fetch r8 $version"; exit 0; }
javac --release 8 -Xlint:-options -d "$out/stubs" "$here"/stub/android/os/*.java
javac --release 8 -Xlint:-options -cp "$classes:$out/stubs" -d "$out/app" "$here/Main.java"
home=$(dirname "$(dirname "$(readlink -f "$(command -v javac)")")")
shrink() {
  local name=$1
  shift
  java -cp "$r8" com.android.tools.r8.R8 --classfile --release --lib "$home" --lib "$out/stubs.jar" "$@" \
    --pg-conf "$here/app.pro" --output "$out/$name.jar" "$out/app.jar" "$out/library.jar" >"$out/$name.log" 2>&1 || {
    tail -n 20 "$out/$name.log"
    fail "R8 fails"
  }
}
(cd "$out/stubs" && jar cf "$out/stubs.jar" .)
(cd "$out/app" && jar cf "$out/app.jar" .)
(cd "$classes" && jar cf "$out/library.jar" .)
shrink with --pg-conf "$here/../aar/proguard.txt"
shrink without
python3 "$here/run.py" "$out/with.jar" "$libraries" "$out/stubs" || fail "the shrunk app fails"
if python3 "$here/run.py" "$out/without.jar" "$libraries" "$out/stubs" >"$out/run.log" 2>&1; then
  fail "the shrunk app works without the rules: this proves nothing"
fi
grep -qE 'UnsatisfiedLinkError|NoSuchMethod|NoClassDef' "$out/run.log" || {
  cat "$out/run.log"
  fail "the shrunk app fails for another reason"
}
# Android's own format, for the oldest version.
rm -rf "$out/sample" "$out/dex"
mkdir -p "$out/sample" "$out/dex"
javac --release 8 -Xlint:-options -nowarn -cp "$classes:$android" -d "$out/sample" \
  "$here"/../sample/src/main/java/org/example/vpn/*.java 2>"$out/sample.log" || {
  cat "$out/sample.log"
  fail "the sample cannot be compiled"
}
(cd "$out/sample" && jar cf "$out/sample.jar" .)
java -cp "$r8" com.android.tools.r8.D8 --release --min-api 24 --lib "$android" --output "$out/dex" \
  "$out/library.jar" "$out/sample.jar"
echo "the library and the sample as dex: $(stat -c %s "$out/dex/classes.dex") bytes"
echo "ok: consumer rules"
