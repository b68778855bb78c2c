#!/usr/bin/env python3
"""run.py JAR LIBRARIES STUBS: runs the shrunk app with a datagram socketpair as its TUN."""

import socket
import subprocess
import sys

jar, libraries, stubs = sys.argv[1:]
mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
command = ["java", f"-Djava.library.path={libraries}", "-cp", f"{jar}:{stubs}", "Main", str(theirs.fileno())]
sys.exit(subprocess.run(command, pass_fds=[theirs.fileno()], timeout=300).returncode)
