"""Brings every package of sources.json through the ordinary clients and checks its SHA-256.

    python fetch.py [--pin]      --pin writes the hashes of packages that have none yet
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from places import PACKAGES, SOURCES, WORK, sources


def pypi(name, version, into):
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*pip, "--dest", into, f"{name}=={version}"], check=True)


def debian(name, version, into):
    subprocess.run(["apt-get", "-oAPT::Sandbox::User=root", "download", "-qq", f"{name}={version}"], check=True, cwd=into)


def crates(name, version, into):
    # The one command of cargo's that brings a crate without all that it depends on.
    home = WORK / "cargo"
    info = ["cargo", "info", "--quiet", "--registry", "crates-io", f"{name}@{version}"]
    env = {**os.environ, "CARGO_HOME": str(home)}
    subprocess.run(info, check=True, cwd=into, env=env, stdout=subprocess.DEVNULL)
    [crate] = (home / "registry" / "cache").glob(f"*/{name}-{version}.crate")
    shutil.copy(crate, into)


CLIENTS = {"pypi": pypi, "debian": debian, "crates": crates}


def bring(source):
    """The package's file, downloaded unless it is there already."""
    folder = PACKAGES / source["registry"] / f"{source['package']}-{source['version'].replace(':', '%3a')}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as part:
            CLIENTS[source["registry"]](source["package"], source["version"], part)
            os.chmod(part, 0o755)
            shutil.copytree(part, folder)
    [file] = folder.iterdir()
    return file


def main():
    pin = "--pin" in sys.argv[1:]
    manifest = sources()
    for source in manifest:
        file = bring(source)
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        if pin and "sha256" not in source:
            source["sha256"] = found
        if found != source.get("sha256"):
            sys.exit(f"{file.name}: SHA-256 is {found}, the manifest says {source.get('sha256')}")
        print(f"{file.name}: as pinned", flush=True)
    if pin:
        rows = ",\n".join("  " + json.dumps(source, ensure_ascii=False) for source in manifest)
        SOURCES.write_text(f"[\n{rows}\n]\n")


if __name__ == "__main__":
    main()
