"""Runs the scenarios side by side and says what came of each check; run.sh is the way to start it."""

import argparse
import signal
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor, as_completed

import kernel
import lifecycle
import peers
from lab import Lab, Settings, stopping
from report import Abandoned, Checks, Report, one_line


def run_one(scenario, settings, report):
    start = time.monotonic()
    checks = Checks(report, scenario.name)
    try:
        with Lab(settings) as lab:
            scenario.script(lab, checks)
    except Abandoned:
        pass
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)
        where = next((frame for frame in reversed(place) if frame.name not in ("expect", "run", "shell", "wait_until")), place[-1])
        report.line(False, scenario.name, f"{one_line(error)} (in {where.name}, {where.filename.rpartition('/')[2]}:{where.lineno})")
    return time.monotonic() - start


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--daemon", required=True)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PROGRAM")
    parser.add_argument("--vm-script")
    parser.add_argument("--vm-directory")
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("which", choices=["kernel", "peers", "all"])
    parser.add_argument("names", nargs="*", help="only scenarios whose names contain one of these")
    options = parser.parse_args()

    settings = Settings(options.daemon, dict(peer.split("=", 1) for peer in options.peer), options.vm_script, options.vm_directory)
    settings.peers["daemon"] = options.daemon
    scenarios = []
    if options.which in ("kernel", "all"):
        scenarios += kernel.scenarios()
    if options.which in ("peers", "all"):
        scenarios += peers.scenarios(settings.peers) + lifecycle.scenarios()
    if options.names:
        scenarios = [s for s in scenarios if any(name in s.name for name in options.names)]

    # Ctrl-C and a signal to end both unwind every scenario: its next command fails, and its lab is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    report, start = Report(), time.monotonic()
    # Those that mostly wait run beside all others, so that the longest waits begin first.
    with settings.shared, ThreadPoolExecutor(options.jobs) as working, ThreadPoolExecutor(32) as waiting:
        running = {(waiting if s.waits else working).submit(run_one, s, settings, report): s for s in scenarios}
        try:
            for future in as_completed(running):
                report.remark(f"{running[future].name}: {future.result():.0f} s")
        except BaseException:
            stopping.set()
            for future in running:
                future.cancel()
            raise
    report.remark(f"{time.monotonic() - start:.0f} s in all")
    print(f"{report.passed} passed, {report.failed} failed")
    return 1 if report.failed or not report.passed else 0


if __name__ == "__main__":
    sys.exit(main())
