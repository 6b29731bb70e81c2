"""`make images`: the Dockerfile's steps without Docker, and what they make on a read-only root without rights.

    python -m tests.images [--work FOLDER] [--target api|worker]

For each target it makes a bare Debian (debootstrap) with Python, carries the steps out in it (chroot), and then runs
the image's commands as its user, without capabilities, on a root that nobody can write. It needs root, debootstrap,
and the network; pip's settings (PIP_…, TORCH_INDEX) are taken from the environment.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[1]
SUITE = "bookworm"  # its Python is one of those that Lethe supports
PACKAGES = "python3,python3-venv,ca-certificates"
WRITABLE = ("/data", "/erasures", "/keys", "/tmp")
PASSED = ("PIP_", "TORCH_INDEX", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass
class Image:
    """What the steps of a target have made so far."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "root"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)


def steps(text: str, target: str) -> list[tuple[str, str]]:
    """Instructions of a target and of the stages that it comes from, without FROM."""
    stages: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    name = ""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stages[name] = base, []
        else:
            stages[name][1].append((word, rest.strip()))
    base, found = stages[target]
    return (steps(text, base) if base in stages else []) + found


def carried(source: str) -> bool:
    """Whether .dockerignore lets a file or folder into the build; the last pattern that fits decides."""
    kept = True
    for pattern in (ROOT / ".dockerignore").read_text().splitlines():
        plain = pattern.removeprefix("!")
        if fnmatch(source, plain) or source.startswith(f"{plain}/"):
            kept = pattern.startswith("!")
    return kept


def carry_out(image: Image, word: str, rest: str) -> None:
    match word:
        case "ENV":
            image.environment |= dict(part.split("=", 1) for part in shlex.split(rest))
        case "ARG":
            name, _, default = rest.partition("=")
            image.environment[name] = os.environ.get(name, default.strip('"'))
        case "WORKDIR":
            image.folder = rest
            (image.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        case "COPY":
            *sources, target = rest.split()
            into = image.root / image.folder.lstrip("/") / target
            for source in sources:
                if not carried(source):
                    raise SystemExit(f"COPY {source}: .dockerignore keeps it out")
                if (ROOT / source).is_dir():
                    ignored = shutil.ignore_patterns("__pycache__")
                    shutil.copytree(ROOT / source, into, dirs_exist_ok=True, ignore=ignored)
                else:
                    into.mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / source, into)
        case "RUN":
            inside(image, ["sh", "-c", rest], user="root")
        case "USER":
            image.user = rest
        case "ENTRYPOINT":
            image.entrypoint = re.findall(r'"([^"]*)"', rest)
        case "CMD":
            image.command = re.findall(r'"([^"]*)"', rest)
        case "VOLUME" | "EXPOSE":
            pass
        case _:
            raise SystemExit(f"what does {word} mean?")


def inside(image: Image, command: list[str], user: str, expect: int = 0, read_only: bool = False) -> str:
    """Run a command in the root, in namespaces of its own; what it printed."""
    rights = ["--inh-caps=-all"]
    mounts = ["mount --bind $R $R", "mount -t proc proc $R/proc", "mount --rbind /dev $R/dev"]
    if read_only:
        rights += ["--no-new-privs", "--bounding-set=-all"]
    if user != "root":
        rights += [f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    if (links := Path(os.environ.get("PIP_FIND_LINKS", "/nowhere"))).is_dir():  # a folder with wheels
        (image.root / links.relative_to("/")).mkdir(parents=True, exist_ok=True)
        mounts.append(f"mount --bind {links} $R{links}")
    if read_only:
        mounts.append("mount -o remount,bind,ro $R")
        mounts += [f"mount -t tmpfs -o mode=700,uid=10001,gid=10001 tmpfs $R{place}" for place in WRITABLE]
    start = f"cd {image.folder} && exec setpriv {shlex.join(rights)} {shlex.join(command)}"
    script = " && ".join([*mounts, f"exec chroot $R sh -c {shlex.quote(start)}"])
    given = {name: value for name, value in os.environ.items() if name.startswith(PASSED)}
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/tmp", "LC_ALL": "C.UTF-8"}
    environment |= given | image.environment | {"R": str(image.root)}
    outer = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", script]
    done = subprocess.run(outer, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != expect:
        sys.exit(f"{shlex.join(command)[:300]}\n{done.stdout[-3000:]}\nended with {done.returncode}")
    return done.stdout


def bare(work: Path) -> Path:
    """A bare Debian with Python in /usr/local, as python:slim has it; made once."""
    base = work / "base"
    if not (base / "usr/local/bin/python").exists():
        shutil.rmtree(base, ignore_errors=True)
        base.mkdir(parents=True)
        subprocess.run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, base], check=True)
        shutil.copy("/etc/resolv.conf", base / "etc/resolv.conf")
        shutil.copy("/etc/ssl/certs/ca-certificates.crt", base / "etc/ssl/certs/ca-certificates.crt")
        inside(Image(base), ["python3", "-m", "venv", "/usr/local"], "root")
    return base


API = """
import os, subprocess, sys, time, urllib.request
subprocess.run(["lethe", "migrate"], check=True)
api = subprocess.Popen(["lethe", "api"])
began = time.monotonic()
while True:
    try:
        print(urllib.request.urlopen("http://127.0.0.1:8321/readyz", timeout=3).read().decode())
        break
    except OSError:
        if time.monotonic() - began > 60 or api.poll() is not None:
            sys.exit("the API does not answer")
        time.sleep(0.1)
print(f"ready after {time.monotonic() - began:.1f} s")
api.terminate()
api.wait()
"""
RIGHTS = """
import os
lines = [line for line in open("/proc/self/status") if line.startswith(("CapEff", "CapBnd", "NoNewPrivs"))]
print(f"user {os.getuid()},", ", ".join(" ".join(line.split()) for line in lines))
"""
SETTINGS = ["env", "LETHE_HOST=127.0.0.1"]


def check(image: Image, target: str) -> None:
    """What the image's user can do on a read-only root, and what not."""

    def run(*command: str, expect: int = 0) -> str:
        return inside(image, list(command), image.user, expect, read_only=True).strip()

    print("  " + run(*image.entrypoint, "--version"))
    print("  " + run("python", "-c", RIGHTS))
    for place in (f"{image.folder}/app/x", "/usr/local/x", "/etc/x", "/var/x"):
        assert "Read-only file system" in run("sh", "-c", f"touch {place}", expect=1), place
    assert '"bomFormat": "CycloneDX"' in run("cat", "sbom.cdx.json")
    if target == "api":
        assert "only workers need it" in run(*image.entrypoint, "worker", expect=1)
        said = run(*SETTINGS, "python", "-c", API).splitlines()
        print("\n".join(f"  {line}" for line in said if "ready" in line))
    else:
        print("  " + "\n  ".join(run(*SETTINGS, *image.entrypoint, "demo", "--folder", "/data/demo").splitlines()[-6:]))


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m tests.images")
    arguments.add_argument("--work", type=Path, default=Path("/var/tmp/lethe-images"))
    arguments.add_argument("--target", choices=["api", "worker"], action="append")
    given = arguments.parse_args()
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        sys.exit("it needs root and debootstrap")
    base = bare(given.work)
    for target in given.target or ["api", "worker"]:
        root = given.work / target
        shutil.rmtree(root, ignore_errors=True)
        subprocess.run(["cp", "-a", base, root], check=True)
        image, began = Image(root), time.monotonic()
        for word, rest in steps((ROOT / "Dockerfile").read_text(), target):
            started = time.monotonic()
            carry_out(image, word, rest)
            if word == "RUN":
                print(f"  {time.monotonic() - started:6.1f} s  {' '.join(rest.split())[:90]}", flush=True)
        size = int(subprocess.check_output(["du", "-sm", root], text=True).split()[0])
        print(f"{target}: {time.monotonic() - began:.0f} s, {size} MiB, user {image.user}, command {image.command}")
        check(image, target)


if __name__ == "__main__":
    main()
