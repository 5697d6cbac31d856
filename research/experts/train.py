"""Trains one expert: LoRA on the frozen base, every checkpoint judged on the validation split, the best kept.

    python train.py DOMAIN [--steps 30] [--rank 4] [--seed 1]

Stopped at any moment and started again, it goes on from its last checkpoint.
"""

import argparse
import json
import random
import time

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import save_file

from base import load_model, load_tokenizer
from places import ADAPTERS, DOMAINS, RUNS, documents

WINDOW, BATCH = 256, 4
VALID_WINDOWS = 12
CHECKPOINT = 15  # steps
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

    def draw(self, draw):
        while True:
            text = draw.choice(self.by_package[draw.choice(sorted(self.by_package))])
            if text not in self.ids:
                self.ids[text] = self.tokenizer.encode(text).ids
            ids = self.ids[text]
            if len(ids) > WINDOW:
                start = draw.randrange(len(ids) - WINDOW)
                return ids[start : start + WINDOW + 1]

    def batch(self, draw, count):
        return torch.tensor([self.draw(draw) for _ in range(count)])


def loss_of(model, batch):
    """Nats per token of a batch of windows."""
    hidden = model.base_model.model.model(input_ids=batch[:, :-1]).last_hidden_state
    logits = model.base_model.model.lm_head(hidden)
    return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


@torch.no_grad()
def judge(model, batches):
    return sum(loss_of(model, batch).item() for batch in batches) / len(batches)


def rate(step, steps):
    """Up over WARM_UP steps, then straight down to a tenth."""
    return LEARNING_RATE * min((step + 1) / WARM_UP, 1 - 0.9 * step / steps)


def save(weights, config, domain):
    folder = ADAPTERS / domain
    folder.mkdir(parents=True, exist_ok=True)
    halves = {name: weight.half().contiguous() for name, weight in weights.items()}
    save_file(halves, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("domain", choices=DOMAINS)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--name", help="where it is kept, if not under the domain's name")
    args = parser.parse_args()
    name = args.name or args.domain
    run = RUNS / name
    run.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(2)
    torch.manual_seed(args.seed)

    tokenizer = load_tokenizer()
    config = LoraConfig(
        r=args.rank, lora_alpha=2 * args.rank, target_modules=LINEAR, task_type="CAUSAL_LM"
    )
    model = get_peft_model(load_model(), config)
    config.inference_mode, config.base_model_name_or_path = True, BASE_NAME
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.0
    )
    train = Windows(tokenizer, args.domain, "train")
    valid = Windows(tokenizer, args.domain, "valid").batch(random.Random(args.domain), VALID_WINDOWS).split(BATCH)

    log = {"domain": args.domain, "steps": args.steps, "rank": args.rank, "seed": args.seed, "seconds": 0.0, "train": [], "valid": []}
    state_file = run / "state.pt"
    if state_file.exists():
        state = torch.load(state_file)
        set_peft_model_state_dict(model, state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        log = state["log"]
    else:
        log["valid"].append([0, judge(model, valid)])
        print(f"{name}: validation {log['valid'][0][1]:.4f} before", flush=True)

    since = time.monotonic()
    for step in range(len(log["train"]), args.steps):
        batch = train.batch(random.Random(f"{args.domain} {args.seed} {step}"), BATCH)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, args.steps)
        loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        log["train"].append(loss.item())
        done = step + 1
        print(f"{name}: step {done} loss {loss.item():.4f} {time.monotonic() - since:.0f} s", flush=True)
        if done % CHECKPOINT and done < args.steps:
            continue
        log["valid"].append([done, judge(model, valid)])
        log["seconds"] += time.monotonic() - since
        since = time.monotonic()
        weights = get_peft_model_state_dict(model)
        if log["valid"][-1][1] == min(loss for _, loss in log["valid"]):
            save(weights, config, name)
        print(f"{name}: validation {log['valid'][-1][1]:.4f} after {done}", flush=True)
        part = state_file.with_suffix(".part")
        torch.save({"weights": weights, "optimizer": optimizer.state_dict(), "log": log}, part)
        part.replace(state_file)
        (run / "log.json").write_text(json.dumps(log))


if __name__ == "__main__":
    main()
