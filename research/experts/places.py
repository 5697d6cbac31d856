"""Where things lie: what is committed beside this file, what can be made again under WORK."""

import json
import os
from pathlib import Path

HERE = Path(__file__).resolve().parent
WORK = Path(os.environ.get("QUORATE_EXPERTS_WORK", HERE.parents[1] / "target" / "experts"))
PACKAGES = WORK / "packages"
CORPUS = WORK / "corpus"
RUNS = WORK / "runs"
ADAPTERS = HERE / "adapters"
DOCS = HERE / "docs"
SOURCES = HERE / "sources.json"

DOMAINS = ["german", "python", "french", "rust", "sql", "arithmetic", "manpages", "ops"]
# The domains of research/mixing.md. One adapter more, POOLED, is trained on all of them together.
PANEL = DOMAINS[:7]
POOLED = "pooled"


def domains_of(expert):
    return PANEL if expert == POOLED else [expert]


def sources():
    return json.loads(SOURCES.read_text())


def documents(domain, split):
    """The texts of one split, as (package, text), in a fixed order."""
    with open(CORPUS / domain / f"{split}.jsonl") as lines:
        return [(doc["package"], doc["text"]) for doc in map(json.loads, lines)]
