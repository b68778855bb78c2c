#!/usr/bin/env python3
"""Starts a daemon on a TUN without a vnet header, as an Android app gets one: plain_tun.py DAEMON INTERFACE

The device is made here and handed over by WG_TUN_FD, so that the daemon finds no offloads on it.
"""
import fcntl, os, struct, sys

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
daemon, interface = sys.argv[1:3]
fd = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", interface.encode(), IFF_TUN | IFF_NO_PI))
os.set_inheritable(fd, True)
os.environ.update(WG_TUN_FD=str(fd), WG_PROCESS_FOREGROUND="1")
os.execv(daemon, [daemon, "-f", interface])
