"""Packages to texts: corpus/DOMAIN/{train,valid,test}.jsonl under WORK.

    python prepare.py [DOMAIN ...]

A split never shares a package with another one of its domain; a text found in two splits stays only
where it is tested.
"""

import hashlib
import html.parser
import json
import random
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from arithmetic import conversations
from fetch import bring
from places import CORPUS, DOMAINS, sources

TEXT_MIN, TEXT_MAX = 800, 60_000
PIECE = 5000
PACKAGE_MAX = 1_500_000  # characters, so that no package is most of a domain
FILE_MAX = 2_000_000
# Words that tell a translated page from one that was left in English.
COMMON = {"german": ("der", "die", "und"), "french": ("les", "des", "est")}


def unpack(file, into):
    if file.suffix == ".deb":
        subprocess.run(["dpkg-deb", "-x", file, into], check=True)
    elif file.suffix == ".whl":
        zipfile.ZipFile(file).extractall(into)
    else:
        tarfile.open(file).extractall(into, filter="data")


class Page(html.parser.HTMLParser):
    """The running text of an HTML or Mallard page, one paragraph a line."""

    BLOCKS = {"p", "title", "li", "item", "h1", "h2", "h3", "h4", "dt", "dd", "td", "tr", "div", "pre", "br", "section"}
    SILENT = {"script", "style", "head", "nav", "info", "code", "screen"}

    def __init__(self):
        super().__init__()
        self.parts, self.silent = [], []

    def handle_starttag(self, tag, attrs):
        if tag in self.SILENT:
            self.silent.append(tag)
        elif tag in self.BLOCKS:
            self.parts.append("\n")

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if self.silent and tag == self.silent[-1]:
            self.silent.pop()
        elif tag in self.BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data):
        if not self.silent:
            self.parts.append(re.sub(r"\s+", " ", data))


def page(text):
    parser = Page()
    parser.feed(text)
    lines = (line.strip() for line in "".join(parser.parts).split("\n"))
    return "\n".join(line for line in lines if len(line) > 30 or line.endswith((".", ":")))


def manual(file):
    """A man page as a terminal of 80 columns shows it."""
    roff = subprocess.run(["zcat", "--force", file], check=True, capture_output=True).stdout
    if roff.startswith(b".so "):
        return ""
    shown = ["groff", "-k", "-Tutf8", "-mandoc", "-t", "-rLL=78n", "-P-cbou"]
    return subprocess.run(shown, input=roff, capture_output=True, check=True).stdout.decode()


def statements(text):
    """The SQL of a sqllogictest file, without directives and expected results."""
    kept = []
    for block in re.split(r"\n\s*\n", text):
        lines = [line for line in block.split("\n") if not line.startswith("#")]
        if lines and re.match(r"(statement ok|query)", lines[0]):
            sql = "\n".join(lines[1:]).split("\n----")[0].strip()
            if sql and not re.match(r"(?i)explain|set |copy|create external", sql):
                kept.append(sql.rstrip(";") + ";")
    return "\n\n".join(kept)


def text_of(file):
    if "man" in file.parent.name and file.suffix in {".gz", *(f".{n}" for n in range(1, 9))}:
        return manual(file)
    text = file.read_text()
    if file.suffix in {".html", ".page"}:
        return page(text)
    return statements(text) if file.suffix == ".slt" else text


def parts(text, domain):
    """Pages in pieces, since some are translated only in part."""
    if domain not in COMMON:
        return [text[:TEXT_MAX]]
    pieces, piece = [], []
    for line in text.split("\n"):
        piece.append(line)
        if sum(map(len, piece)) > PIECE:
            pieces.append("\n".join(piece))
            piece = []
    return [*pieces, "\n".join(piece)]


def usable(text, domain):
    lines = text.split("\n")
    if len(text) < TEXT_MIN or "\0" in text or (domain not in COMMON and max(map(len, lines)) > 400):
        return False
    words = text.lower().split()
    return domain not in COMMON or sum(map(words.count, COMMON[domain])) > 4 * words.count("the")


def texts(source):
    """The usable texts of one package, in an order drawn by its name, up to PACKAGE_MAX in all."""
    found, small = [], []
    with tempfile.TemporaryDirectory() as folder:
        unpack(bring(source), folder)
        root = Path(folder)
        if source["registry"] == "crates":
            [root] = root.iterdir()
        files = sorted(f for f in root.glob(source["path"]) if f.is_file() and not f.is_symlink() and f.stat().st_size < FILE_MAX)
        random.Random(source["package"]).shuffle(files)
        room = PACKAGE_MAX
        for file in files:
            try:
                text = text_of(file).strip()
            except UnicodeDecodeError:
                continue
            # Statements of one or two lines are joined: a document is a screenful at least.
            if file.suffix == ".sql" and len(text) < TEXT_MIN:
                small.append(text)
                text = "\n\n".join(small) if sum(map(len, small)) > 2 * TEXT_MIN else ""
                small = [] if text else small
            for part in parts(text, source["domain"]):
                if usable(part, source["domain"]) and room > 0:
                    found.append(part)
                    room -= len(part)
    return found


def split_of(domain, split, seen):
    """Every text once; `seen` holds those of the splits made before."""
    if domain == "arithmetic":
        made = [("arithmetic.py", text) for text in conversations(split)]
    else:
        wanted = [s for s in sources() if s["domain"] == domain and s["split"] == split]
        made = [(source["package"], text) for source in wanted for text in texts(source)]
    kept = []
    for package, text in made:
        mark = hashlib.sha256(text.encode()).digest()
        if mark not in seen:
            seen.add(mark)
            kept.append((package, text))
    return kept


def main():
    for domain in sys.argv[1:] or DOMAINS:
        folder = CORPUS / domain
        folder.mkdir(parents=True, exist_ok=True)
        seen = set()
        for split in ("test", "valid", "train"):
            kept = split_of(domain, split, seen)
            with open(folder / f"{split}.jsonl", "w") as out:
                for package, text in kept:
                    out.write(json.dumps({"package": package, "text": text}, ensure_ascii=False) + "\n")
            packages = sorted({package for package, _ in kept})
            size = sum(len(text) for _, text in kept)
            print(f"{domain} {split}: {len(kept)} texts, {size} characters, from {', '.join(packages)}", flush=True)


if __name__ == "__main__":
    main()
