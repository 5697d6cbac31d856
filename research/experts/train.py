"""Trains experts: LoRA on the frozen base, every checkpoint judged on the validation split, the best kept.

    python train.py DOMAIN ... [--steps 48] [--rank 4] [--seed 1]
    python train.py pooled --steps 336

`pooled` learns from all domains of the panel together: at seven times the steps of one expert it costs what they cost.

Stopped at any moment and started again, it goes on from the last checkpoint.
"""

import argparse
import json
import os
import random
import time

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import save_file

from base import load_model, load_tokenizer
from places import ADAPTERS, DOMAINS, POOLED, RUNS, documents, domains_of

# Small steps: as long as all gradients point out of English chat and into the domain, more of them
# beat larger ones at the same number of tokens.
WINDOW, BATCH = 128, 2
VALID_WINDOW, VALID_WINDOWS, VALID_WINDOWS_OF_SEVERAL, VALID_BATCH = 192, 8, 2, 4
CHECKPOINT = 16  # steps
WARM_UP = 4  # steps
LEARNING_RATE = 2e-3
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BASE_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"


class Windows:
    """Windows of token ids. First a package, then one of its texts, then a place: no package drowns another."""

    def __init__(self, tokenizer, domain, split):
        self.tokenizer, self.by_package, self.ids = tokenizer, {}, {}
        for package, text in documents(domain, split):
            self.by_package.setdefault(package, []).append(text)

    def one(self, draw, length):
        while True:
            text = draw.choice(self.by_package[draw.choice(sorted(self.by_package))])
            if text not in self.ids:
                self.ids[text] = self.tokenizer.encode(text).ids
            ids = self.ids[text]
            if len(ids) > length:
                start = draw.randrange(len(ids) - length)
                return ids[start : start + length + 1]


class Domains:
    """Windows of several domains, each as likely as another."""

    def __init__(self, tokenizer, domains, split):
        self.windows = [Windows(tokenizer, domain, split) for domain in domains]

    def batch(self, seed, count, length):
        draw = random.Random(seed)
        several = len(self.windows) > 1
        of = [draw.choice(self.windows) if several else self.windows[0] for _ in range(count)]
        return torch.tensor([windows.one(draw, length) for windows in of])


def to_judge_by(tokenizer, domains):
    """The same windows whatever else is trained: fewer of each domain where there are several."""
    count = VALID_WINDOWS if len(domains) == 1 else VALID_WINDOWS_OF_SEVERAL
    of = [Domains(tokenizer, [domain], "valid").batch(domain, count, VALID_WINDOW) for domain in domains]
    return torch.cat(of).split(VALID_BATCH)


def loss_of(model, batch):
    """Nats per token of a batch of windows."""
    logits = model(input_ids=batch[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


@torch.no_grad()
def judge(model, batches):
    return sum(loss_of(model, batch).item() * len(batch) for batch in batches) / sum(map(len, batches))


def rate(step, steps):
    """Up over WARM_UP steps, then straight down to a tenth."""
    return LEARNING_RATE * min((step + 1) / WARM_UP, 1 - 0.9 * step / steps)


class Run:
    """One expert in training, with what it takes to go on after a stop."""

    def __init__(self, base, tokenizer, domain, args):
        self.name, self.args = args.name or domain, args
        self.folder = RUNS / self.name
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(args.seed)
        self.config = LoraConfig(r=args.rank, lora_alpha=2 * args.rank, target_modules=LINEAR, task_type="CAUSAL_LM")
        self.model = get_peft_model(base, self.config)
        self.config.inference_mode, self.config.base_model_name_or_path = True, BASE_NAME
        self.weights = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.weights, betas=(0.9, 0.99), weight_decay=0.0)
        self.train = Domains(tokenizer, domains_of(domain), "train")
        self.valid = to_judge_by(tokenizer, domains_of(domain))
        self.log = {"domain": domain, "steps": args.steps, "rank": args.rank, "seed": args.seed, "train": [], "valid": []}
        if (self.folder / "state.pt").exists():
            state = torch.load(self.folder / "state.pt")
            set_peft_model_state_dict(self.model, state["weights"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.log = state["log"]

    def step(self, nth):
        batch = self.train.batch(f"{self.log['domain']} {self.args.seed} {nth}", BATCH, WINDOW)
        for group in self.optimizer.param_groups:
            group["lr"] = rate(nth, self.args.steps)
        loss = loss_of(self.model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.log["train"].append(loss.item())

    def checkpoint(self):
        done = len(self.log["train"])
        self.log["valid"].append([done, judge(self.model, self.valid)])
        weights = get_peft_model_state_dict(self.model)
        if done and self.log["valid"][-1][1] == min(loss for _, loss in self.log["valid"]):
            self.keep(weights)
        part = self.folder / "state.part"
        torch.save({"weights": weights, "optimizer": self.optimizer.state_dict(), "log": self.log}, part)
        part.replace(self.folder / "state.pt")
        (self.folder / "log.json").write_text(json.dumps(self.log))

    def keep(self, weights):
        folder = ADAPTERS / self.name
        folder.mkdir(parents=True, exist_ok=True)
        halves = {name: weight.half().contiguous() for name, weight in weights.items()}
        save_file(halves, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        self.config.save_pretrained(folder)

    def go(self):
        since = time.monotonic()
        if not self.log["valid"]:
            self.checkpoint()
        for nth in range(len(self.log["train"]), self.args.steps):
            self.step(nth)
            done = nth + 1
            if done % CHECKPOINT == 0 or done == self.args.steps:
                self.checkpoint()
            judged = f", validation {self.log['valid'][-1][1]:.4f}" if self.log["valid"][-1][0] == done else ""
            print(f"{self.name} {done}: {self.log['train'][-1]:.4f}{judged}, {time.monotonic() - since:.0f} s", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("domains", nargs="+", choices=[*DOMAINS, POOLED])
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--name", help="where the expert is kept, if not under the domain's name")
    args = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    base, tokenizer = load_model(), load_tokenizer()
    for domain in args.domains:
        run = Run(base, tokenizer, domain, args)
        run.go()
        base = run.model.unload()


if __name__ == "__main__":
    main()
