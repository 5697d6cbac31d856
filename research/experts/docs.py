"""docs/DOMAIN/NN-PACKAGE.txt, what `quorate eval --docs` reads: pieces of test texts, drawn by a seed.

    python docs.py [DOMAIN ...]
"""

import hashlib
import random
import re
import sys
from pathlib import Path

from places import DOCS, DOMAINS, documents

PER_DOMAIN = 24
PER_TEXT = 5
CHARS = 2400
# The repository names no registry and no place of a machine, and its tests look into these files too: hosts
# are known by the beginnings of their SHA-256.
HOSTS = {"a4aa2ac280bb", "8b5bb5eb9d75", "75adac515f0b", "8743857e3ea0", "789e46d79514"}
HOST = re.compile(r"[a-z]+\.(?:org|io)")
FOLDERS = re.compile(rf"/({'|'.join(['root', 'work'])})/")


def is_unwelcome(piece):
    digests = (hashlib.sha256(host.encode()).hexdigest()[:12] for host in HOST.findall(piece))
    return bool(FOLDERS.search(piece)) or any(digest in HOSTS for digest in digests)


def pieces(text):
    """Runs of whole lines of about CHARS characters."""
    made, lines, size = [], [], 0
    for line in text.split("\n"):
        lines.append(line)
        size += len(line) + 1
        if size >= CHARS:
            made.append("\n".join(lines))
            lines, size = [], 0
    # A rest too short to judge by is dropped, unless it is all there is.
    return [*made, "\n".join(lines)] if size > CHARS // 2 or not made else made


def chosen(domain):
    """Equal parts from every package, while it has them; the rest from whoever has more."""
    draw = random.Random(f"docs {domain}")
    pool = {}
    for package, text in documents(domain, "test"):
        of_it = [piece for piece in pieces(text) if not is_unwelcome(piece)]
        pool.setdefault(package, []).extend(draw.sample(of_it, min(PER_TEXT, len(of_it))))
    for of_it in pool.values():
        draw.shuffle(of_it)
    taken = []
    while len(taken) < PER_DOMAIN and any(pool.values()):
        taken += [(package, pool[package].pop()) for package in sorted(pool) if pool[package]]
    return sorted(taken[:PER_DOMAIN], key=lambda pair: pair[0])


def main():
    for domain in sys.argv[1:] or DOMAINS:
        folder = DOCS / domain
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        for nth, (package, text) in enumerate(chosen(domain)):
            (folder / f"{nth:02}-{Path(package).stem}.txt").write_text(text.strip() + "\n")


if __name__ == "__main__":
    main()
