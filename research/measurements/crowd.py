#!/usr/bin/env python3
"""More clients than places, with a real model; then many requests one after another, for memory.

    QUORATE_HOME=... python3 crowd.py path/to/quorate [parallel] [in a row]"""
import collections, http.client, json, subprocess, sys, threading, time

PROGRAM = sys.argv[1]
PARALLEL = int(sys.argv[2]) if len(sys.argv) > 2 else 200
IN_A_ROW = int(sys.argv[3]) if len(sys.argv) > 3 else 500
MODEL = "smollm2:135m"


def ask(host, seed, tokens):
    body = {"model": MODEL, "messages": [{"role": "user", "content": f"Tell me about the number {seed}."}],
            "max_tokens": tokens, "seed": seed}
    connection = http.client.HTTPConnection(host, timeout=900)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    answer = json.loads(response.read())
    return response.status, response.getheader("retry-after"), answer


def rss_mb(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


def main():
    command = [PROGRAM, "up", "--json", "--listen", "127.0.0.1:0", "--model", MODEL]
    node = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    host = json.loads(node.stdout.readline())["api"].removeprefix("http://")
    ask(host, 0, 1)
    print(f"memory at the start {rss_mb(node.pid):.0f} MB")

    seen, kept = collections.Counter(), threading.Lock()

    def client(seed):
        status, retry_after, answer = ask(host, seed, 16)
        whole = status == 200 and answer["choices"][0]["finish_reason"] in ("stop", "length")
        with kept:
            seen[status, "whole" if whole else f"retry after {retry_after} s"] += 1

    began = time.monotonic()
    clients = [threading.Thread(target=client, args=(seed,)) for seed in range(PARALLEL)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    print(f"{PARALLEL} at once: {dict(seen)} in {time.monotonic() - began:.1f} s, memory {rss_mb(node.pid):.0f} MB")

    for seed in range(1, IN_A_ROW + 1):
        status, _, _ = ask(host, seed, 4)
        assert status == 200, status
        if seed % 100 == 0:
            print(f"after {seed} in a row: memory {rss_mb(node.pid):.0f} MB")
    node.terminate()


main()
