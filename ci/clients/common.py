"""What the runners of clients share: where things are, which versions, and how they are fetched and built."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "ci/clients"
OUT = ROOT / "target/clients"
KAFKA_NEW, KAFKA_OLD = "4.4.0", "3.9.2"
ZOOKEEPER_NEW, ZOOKEEPER_OLD = "3.9.5", "3.8.4"
# Whoever is asked to end cleans up first.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
JAVA = ["java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"]


def download(what, command, cwd, environment=None):
    """A registry may fail; nothing else is tried again."""
    for attempt in range(1, 4):
        if subprocess.run(command, cwd=cwd, env=environment, check=False).returncode == 0:
            return
        print(f"{what}: try {attempt} of 3 failed", file=sys.stderr)
        if attempt < 3:
            time.sleep(attempt * 5)
    sys.exit(f"{what}: could not be downloaded or built")


def maven(version, profile=None, source="java", name=None):
    """The directory with `classes` and `lib` of the sources in a directory of that name, built for that version of the client."""
    directory = OUT / f"{name or profile or source}-{version}"
    stamp, wanted = directory / "built", fingerprint(HERE / source)
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(directory, ignore_errors=True)
        arguments = ["-P" + profile] if profile else [f"-D{'kafka' if source == 'java' else 'zookeeper'}.version={version}"]
        download(f"{source} {version}", ["mvn", "-q", "-B", "-ntp", *arguments, "process-classes"], HERE / source)
        stamp.write_text(wanted)
    return directory


def fingerprint(directory):
    """The names, sizes and times of a driver's sources: what its build depends on."""
    return "\n".join(f"{f.relative_to(directory)} {f.stat().st_size} {f.stat().st_mtime_ns}" for f in sorted(directory.rglob("*")) if f.is_file())


def virtualenv(requirements, name):
    """The directory of a virtual environment of Python's with what a file asks for."""
    venv = OUT / name
    stamp = venv / "installed"
    if not stamp.exists() or stamp.read_text() != requirements.read_text():
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        download(name, [venv / "bin/pip", "install", "-q", "--disable-pip-version-check", "-r", requirements], ROOT)
        stamp.write_text(requirements.read_text())
    return venv


def cargo_environment():
    """Without the flags that the project's own code is built with."""
    return {**os.environ, "RUSTFLAGS": "", "CARGO_TERM_QUIET": "true"}


class Results:
    """Case lines of all drivers, printed as they come."""

    def __init__(self, name="results"):
        OUT.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.lock, self.passed, self.failed = threading.Lock(), 0, []
        self.file = open(OUT / f"{name}.jsonl", "w", encoding="utf-8")

    def add(self, line):
        with self.lock:
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
            if line["ok"]:
                self.passed += 1
            else:
                self.failed.append(line)
            mark = "ok    " if line["ok"] else "FAILED"
            print(f"{mark} {line['client']} {line['version']} {line['case']} ({line['ms']} ms){'' if line['ok'] else ': ' + line['detail']}", flush=True)

    def case(self, client, version, case, wrong, ms=0):
        self.add({"client": client, "version": version, "case": case, "ok": not wrong, "ms": ms, "detail": wrong})

    def finish(self):
        """Says again what failed, and how many; ends the process."""
        for line in self.failed:
            print(f"FAILED {line['client']} {line['version']} {line['case']}: {line['detail']}")
        print(f"{self.passed} passed, {len(self.failed)} failed")
        sys.exit(1 if self.failed or not self.passed else 0)
