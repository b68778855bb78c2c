#!/usr/bin/env python3
"""Ctrl-C, typed on a terminal, ends the daemon of Windows under Wine: ctrl_c.py WG-EMBED.EXE WINTUN.DLL

A test under Wine cannot send it to another process; a terminal can."""

import os
import pty
import re
import shutil
import signal
import sys
import tempfile

LIMIT = 300  # seconds, only bounds a hang


def output(terminal):
    """Yields all of the daemon's output so far, whenever there is more."""
    text = b""
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # There is no more: Linux reports it so.
            return
        if not part:
            return
        text += part
        # Without the terminal's sequences, and its line breaks in long lines.
        yield re.sub(rb"\x1b\[[?0-9;]*[A-Za-z]|[\r\n]", b"", text).decode(errors="replace")


def main(program, dll):
    with tempfile.TemporaryDirectory() as directory:
        shutil.copy(program, f"{directory}/wg-embed.exe")
        shutil.copy(dll, f"{directory}/wintun.dll")
        child, terminal = pty.fork()
        if child == 0:
            os.environ["LOG_LEVEL"] = "verbose"
            os.execvp("wine", ["wine", f"{directory}/wg-embed.exe", "-f", f"wg-embed-{os.getpid()}"])
        signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
        signal.alarm(LIMIT)
        typed, text = False, ""
        for text in output(terminal):
            if not typed and "control pipe are there" in text:
                os.write(terminal, b"\x03")
                typed = True
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code != 0 or 'reason="interrupted"' not in text:
            sys.exit(f"the daemon ended with {code}: {text}")


main(*sys.argv[1:])
