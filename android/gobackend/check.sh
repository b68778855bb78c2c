#!/usr/bin/env bash
# check.sh OUT BUILD LIBRARIES MONITOR: whether the classes of wireguard-android's AAR, unchanged, work over this
# project's libwg-go.so: GoBackend brings a tunnel up in Robolectric, passes packets, reads statistics, and ends it.
#
# BUILD      what Maven has built in ../java: classes, test-classes, classpath and sdks
# LIBRARIES  the folder with libhost.so and libwg_embed_jni.so
# MONITOR    classes.jar of androidx.test:monitor
#
# The AAR is fetched from Maven Central, and is not part of this repository.
set -euo pipefail
out=$1 build=$2 libraries=$3 monitor=$4
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
version=1.0.20260102 collection=1.2.0
fail() { echo "check.sh: $*" >&2; exit 1; }

mkdir -p "$out/classes"
# Their names have the versions: what a kept folder has of others is not used.
tunnel=$out/tunnel-$version.jar collection_jar=$out/collection-$collection.jar
if [ ! -e "$tunnel" ] || [ ! -e "$collection_jar" ]; then
  for artifact in "com.wireguard.android:tunnel:$version:aar" "androidx.collection:collection:$collection"; do
    mvn -B -q -f "$here/../java/pom.xml" dependency:copy "-Dartifact=$artifact" "-DoutputDirectory=$out" \
      >"$out/fetch.log" 2>&1 || { echo "skipped: wireguard-android's GoBackend: Maven cannot fetch $artifact"; exit 0; }
  done
  unzip -p "$out/tunnel-$version.aar" classes.jar >"$tunnel.part"
  mv "$tunnel.part" "$tunnel"
fi
classes=$tunnel:$collection_jar:$build/classes:$build/test-classes:$monitor:$(cat "$build/classpath")
javac -Xlint:all,-classfile,-path,-processing -Werror -proc:none -cp "$classes" -d "$out/classes" \
  "$here"/com/wgembed/GoBackendTest.java

cargo build -q --package wg-embed-android
# The name that GoBackend asks for.
ln -sf "$target/debug/libwg_embed_android.so" "$libraries/libwg-go.so"
timeout -k 10 600 java -cp "$out/classes:$classes" "-Djava.library.path=$libraries" -Xcheck:jni \
  --add-opens java.base/java.io=ALL-UNNAMED -Drobolectric.offline=true -Drobolectric.dependency.dir="$build/sdks" \
  org.junit.runner.JUnitCore com.wgembed.GoBackendTest >"$out/test.log" 2>&1 || {
  tail -n 60 "$out/test.log"
  fail "wireguard-android's GoBackend"
}
tests=$(grep -c '@Test$' "$here"/com/wgembed/GoBackendTest.java)
grep -q "^OK ($tests tests)$" "$out/test.log" || { tail -n 20 "$out/test.log"; fail "not all of $tests tests ran"; }
if grep -E '(WARNING|FATAL ERROR) in native|WARNING: JNI local refs' "$out/test.log"; then
  fail "the virtual machine complains"
fi
echo "ok: wireguard-android's GoBackend $version, $tests tests"
