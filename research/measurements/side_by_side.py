#!/usr/bin/env python3
"""A node beside the bare llama.cpp loop, in short turns: for machines that are not quiet for as long
as `quorate bench solo` takes. Both have the same file, context, batch and threads.

    QUORATE_HOME=... python3 side_by_side.py path/to/quorate [turns]

`chrt -f 10` before it keeps other programs away (as root, and they stand still meanwhile)."""
import http.client, json, os, random, subprocess, sys, time

PROGRAM, TURNS = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 3
MODEL = "smollm2:135m"


class Bare:
    def __init__(self):
        env = dict(os.environ, QUORATE_BENCH_CHILD="bare")
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([PROGRAM, "bench", "solo"], env=env, stdin=pipe, stdout=pipe, text=True)

    def us(self, what, numbers):
        self.process.stdin.write(what + " " + " ".join(map(str, numbers)) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


class Node:
    def __init__(self):
        command = [PROGRAM, "up", "--json", "--listen", "127.0.0.1:0", "--model", MODEL]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        api = json.loads(self.process.stdout.readline())["api"]
        self.host = api.removeprefix("http://")

    def answer(self, prompt, tokens, seed=1):
        """Timings of the driver, and the tokens per second that an HTTP client sees after the first."""
        body = {"model": MODEL, "prompt": prompt, "max_tokens": tokens, "seed": seed, "stream": True}
        connection = http.client.HTTPConnection(self.host, timeout=600)
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        first = last = timings = None
        count = 0
        for line in connection.getresponse():
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            last = time.monotonic()
            first = first or last
            count += 1
            timings = event.get("quorate", {}).get("timings", timings)
        return timings, (count - 1) / (last - first) if count > 2 else None


def noise(count):
    return [random.randrange(1000, 49000) for _ in range(count)]


def median(values):
    return sorted(values)[len(values) // 2]


def main():
    random.seed(1)
    bare, node = Bare(), Node()
    node.answer(noise(64), 1)
    bare.us("prefill", noise(64))
    seen = {}
    note = lambda key, value: seen.setdefault(key, []).append(value)
    opening = "Once upon a time, in a village by the sea, there lived an old fisherman who"
    for turn in range(TURNS):
        prompt = noise(1024)
        note("bare prefill tok/s", 1024e6 / bare.us("prefill", prompt))
        note("prefill tok/s", 1024e6 / node.answer(prompt, 1)[0]["prefill_us"])
        for _ in range(4):
            prompt = noise(64)
            note("bare first token ms", bare.us("prefill", prompt) / 1e3)
            note("first token ms", node.answer(prompt, 1)[0]["prefill_us"] / 1e3)
        note("bare decode tok/s", 127e6 / bare.us("decode", [1, 128] + noise(16)))
        for seed in range(100):  # a text that does not end early
            timings, http_tps = node.answer(opening, 128, seed=seed)
            decode = 127e6 / timings["decode_us"]
            if http_tps and timings["decode_us"] > 500_000:
                note("decode tok/s", decode)
                note("decode over HTTP tok/s", http_tps)
                break
    for key, values in seen.items():
        print(f"{key:24s} median {median(values):7.1f}   from {min(values):.1f} to {max(values):.1f}")
    pair = lambda ours, theirs: median(seen[ours]) / median(seen[theirs])
    print(f"prefill {pair('prefill tok/s', 'bare prefill tok/s'):.3f}")
    print(f"decode {pair('decode tok/s', 'bare decode tok/s'):.3f}")
    print(f"HTTP against decode {pair('decode over HTTP tok/s', 'decode tok/s'):.3f}")
    print(f"first token {median(seen['first token ms']) - median(seen['bare first token ms']):+.1f} ms")
    node.process.terminate()
    bare.process.stdin.close()


main()
