#!/usr/bin/env bash
# Boots a Linux kernel that has the in-kernel WireGuard, in qemu on a TAP in a network namespace, so that tests
# can talk to the reference implementation on machines whose own kernel lacks the module. The CPU is emulated
# (KVM is not used): slow, but the kernel's clocks and timers run at the true rate.
#
#   vm.sh build DIR                           installs packages, unpacks Debian's cloud kernel, packs an initramfs
#   vm.sh start DIR NETNS TAP HOST4 VM4       boots it; NETNS is created if it does not exist (IPv6: fd00:18::1 and ::2)
#   vm.sh run   DIR NETNS VM4 'COMMANDS'      runs shell lines in the VM, prints their output, exits with their status
#   vm.sh stop  DIR NETNS TAP                 ends that VM, removes its TAP, and NETNS too if start created it
#
# In the VM: 256 MB, 1 CPU, root, eth0 up; busybox, bash, wg, tc, ping and iperf3 on PATH; modules wireguard (with its
# debug messages on: see `dmesg`), tun, sch_netem, and those that send arriving packets through an ifb, loaded. Nothing
# is installed into the host's /boot or /lib/modules.
# Environment: VM_TIMEOUT (seconds, default 60) bounds one `run`; VM_NICE (default 0) is qemu's niceness.
set -euo pipefail

usage() { sed -n '6,9s/^# *//p' "$0"; exit 2; }

install_packages() {
  local need=() package
  for package in qemu-system-x86 busybox-static cpio kmod iproute2 iputils-ping wireguard-tools iperf3 curl; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || need+=("$package")
  done
  [ ${#need[@]} -gt 0 ] || return 0
  apt-get update -q >/dev/null
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${need[@]}" >/dev/null
}

# The cloud flavour is small and is built with WireGuard as a module. It is only unpacked, never installed.
unpack_kernel() {
  local package
  [ ! -s kernel/release ] || return 0
  rm -rf kernel && mkdir kernel
  package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/ {print $2; exit}')
  if [ -z "$package" ]; then
    apt-get update -q >/dev/null
    package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/ {print $2; exit}')
  fi
  (cd kernel && apt-get download -q "$package" >/dev/null 2>&1 && dpkg-deb -x "$package"_*.deb . && rm -f "$package"_*.deb)
  depmod -b kernel "${package#linux-image-}"
  cp kernel/boot/vmlinuz-* vmlinuz
  echo "${package#linux-image-}" > kernel/release
}

copy_program() {
  local path file
  path=$(command -v "$1")
  cp -L "$path" root/bin/
  { ldd "$path" 2>/dev/null || true; } | grep -oE '/[^ ]+' | while read -r file; do
    mkdir -p "root$(dirname "$file")"
    cp -Ln "$file" "root$file"
  done
}

# Copies a module and what it depends on, and notes the order in which to load them.
copy_module() {
  local file name
  modprobe -d kernel -S "$(cat kernel/release)" --show-depends "$1" | awk '/^insmod/ {print $2}' | while read -r file; do
    name=$(basename "$file")
    grep -qx "$name" root/modules/order && continue
    cp "$file" root/modules/
    echo "$name" >> root/modules/order
  done
}

pack_initramfs() {
  local name
  rm -rf root && mkdir -p root/{bin,dev,etc,modules,proc,sys,tmp,www/cgi-bin}
  cp /bin/busybox root/bin/
  for name in $(/bin/busybox --list | grep -vx busybox); do ln -sf busybox "root/bin/$name"; done
  for name in bash wg tc iperf3 ping; do rm -f "root/bin/$name"; copy_program "$name"; done
  : > root/modules/order
  for name in virtio_pci virtio_net wireguard tun sch_netem sch_ingress cls_matchall act_mirred ifb; do copy_module "$name"; done

  cat > root/init <<'INIT'
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t debugfs debug /sys/kernel/debug
ln -s /proc/self/fd /dev/fd
for module in $(cat /modules/order); do insmod /modules/$module; done
echo 'module wireguard +p' > /sys/kernel/debug/dynamic_debug/control
sysctl -q -w net.core.message_cost=0 # do not rate-limit the module's messages
for word in $(cat /proc/cmdline); do
  case $word in
    vm4=*) vm4=${word#vm4=} ;;
    vm6=*) vm6=${word#vm6=} ;;
  esac
done
sysctl -q -w net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.eth0.accept_dad=0
ip link set lo up
ip link set eth0 up
ip addr add "$vm4/24" dev eth0
ip -6 addr add "$vm6/64" dev eth0
httpd -h /www -p 80
echo VM-READY
while :; do sleep 1000; done
INIT

  # A request's body is a shell script; its status comes back as the last line.
  cat > root/www/cgi-bin/run <<'CGI'
#!/bin/sh
printf 'Content-Type: text/plain\r\n\r\n'
script=$(head -c "$CONTENT_LENGTH")
bash -c "$script" 2>&1
echo "status=$?"
CGI
  chmod +x root/init root/www/cgi-bin/run
  (cd root && find . | cpio -o -H newc --quiet | gzip -1) > initramfs.gz
}

start_vm() {
  local ns=$1 tap=$2 host4=$3 vm4=$4 state pid
  state=$DIR/$ns.$tap
  [ ! -e "$state.pid" ] || { echo "already running: $state.pid" >&2; exit 1; }
  if ! ip netns list | grep -qw "$ns"; then
    ip netns add "$ns"
    ip -n "$ns" link set lo up
    : > "$state.own-netns"
  fi
  ip -n "$ns" tuntap add dev "$tap" mode tap
  ip -n "$ns" addr add "$host4/24" dev "$tap"
  ip -n "$ns" -6 addr add fd00:18::1/64 dev "$tap" nodad
  ip -n "$ns" link set "$tap" up
  rm -f "$state.console"
  # no_timer_check: on a busy machine the emulated timer may be late, which the kernel would take for a broken one.
  ip netns exec "$ns" nice -n "${VM_NICE:-0}" qemu-system-x86_64 \
    -accel tcg -cpu max -smp 1 -m 256 -nodefaults -no-reboot -display none \
    -kernel vmlinuz -initrd initramfs.gz \
    -append "console=ttyS0 quiet panic=-1 no_timer_check log_buf_len=4M vm4=$vm4 vm6=fd00:18::2" \
    -serial "file:$state.console" \
    -netdev "tap,id=net0,ifname=$tap,script=no,downscript=no" \
    -device virtio-net-pci,netdev=net0,romfile= >"$state.log" 2>&1 </dev/null &
  pid=$!
  echo "$pid" > "$state.pid"
  for _ in $(seq 600); do
    ! grep -q VM-READY "$state.console" 2>/dev/null || return 0
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
  echo "the VM did not come up:" >&2
  tail -n 5 "$state.console" "$state.log" >&2 || true
  stop_vm "$ns" "$tap"
  exit 1
}

run_in_vm() {
  local ns=$1 vm4=$2 script=$3 output status
  output=$(ip netns exec "$ns" curl -sS --max-time "${VM_TIMEOUT:-60}" -H 'Content-Type: text/plain' \
    --data-binary "$script" "http://$vm4/cgi-bin/run")
  status=$(sed -n '$s/^.*status=//p' <<<"$output")
  sed '$s/status=[0-9]*$//' <<<"$output" | sed '${/^$/d}'
  exit "${status:-1}"
}

stop_vm() {
  local ns=$1 tap=$2 state pid
  state=$DIR/$ns.$tap
  if [ -s "$state.pid" ]; then
    pid=$(cat "$state.pid")
    # The number may have been given to another process since: end it only if it is our qemu.
    if tr '\0' ' ' 2>/dev/null < "/proc/$pid/cmdline" | grep -q "ifname=$tap,"; then
      kill "$pid" 2>/dev/null || true
      for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    fi
    rm -f "$state.pid"
  fi
  ip -n "$ns" link del "$tap" 2>/dev/null || true
  if [ -e "$state.own-netns" ]; then
    ip netns del "$ns" 2>/dev/null || true
    rm -f "$state.own-netns"
  fi
}

[ $# -ge 2 ] || usage
command=$1
DIR=$(realpath -m "$2")
shift 2
mkdir -p "$DIR" && cd "$DIR"
case "$command:$#" in
  build:0) install_packages && unpack_kernel && pack_initramfs && ls -l vmlinuz initramfs.gz ;;
  start:4) start_vm "$@" ;;
  run:3) run_in_vm "$@" ;;
  stop:2) stop_vm "$@" ;;
  *) usage ;;
esac
