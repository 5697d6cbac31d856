"""The table of README.md: nats per token of the base and of every expert on every domain's documents.

    python evaluate.py [--docs 8] [--tokens 256]

Cells are kept in results.json under WORK as they are done: started again, it goes on where it was.
"""

import argparse
import json

import torch
import torch.nn.functional as F
from peft import PeftModel

from base import load_model, load_tokenizer
from places import ADAPTERS, DOCS, DOMAINS, WORK

RESULTS = WORK / "results.json"


def document_ids(tokenizer, domain, docs, tokens):
    """The first tokens of some documents, taken evenly over the folder so that every package has its part."""
    files = sorted((DOCS / domain).glob("*.txt"))
    chosen = [files[i * len(files) // docs] for i in range(min(docs, len(files)))]
    return [tokenizer.encode(file.read_text()).ids[: tokens + 1] for file in chosen]


@torch.no_grad()
def nats(model, documents):
    total = count = 0
    for ids in documents:
        ids = torch.tensor([ids])
        logits = model(input_ids=ids[:, :-1]).logits
        total += F.cross_entropy(logits[0], ids[0, 1:], reduction="sum").item()
        count += ids.shape[1] - 1
    return total / count


def table(results):
    names = ["base", *(name for name in DOMAINS if name in results)]
    rows = ["| documents | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for domain in DOMAINS:
        values = {name: results[name].get(domain) for name in names}
        least = min(value for value in values.values() if value is not None)
        cells = ["" if v is None else f"**{v:.3f}**" if v == least else f"{v:.3f}" for v in values.values()]
        rows.append(f"| {domain} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--docs", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256)
    args = parser.parse_args()
    torch.set_num_threads(2)
    tokenizer = load_tokenizer()
    documents = {d: document_ids(tokenizer, d, args.docs, args.tokens) for d in DOMAINS}
    key = f"{args.docs} documents of {args.tokens} tokens"
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results = kept.setdefault(key, {})
    for name in ["base", *DOMAINS]:
        cells = results.setdefault(name, {})
        missing = [domain for domain in DOMAINS if domain not in cells]
        if name != "base" and not (ADAPTERS / name / "adapter_model.safetensors").exists():
            del results[name]
            continue
        if missing:
            model = load_model()
            # Merged: the same function as base and adapter side by side, and faster.
            model = model if name == "base" else PeftModel.from_pretrained(model, ADAPTERS / name).merge_and_unload()
        for domain in missing:
            cells[domain] = nats(model, documents[domain])
            RESULTS.write_text(json.dumps(kept, indent=1))
            print(f"{name} on {domain}: {cells[domain]:.4f}", flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
