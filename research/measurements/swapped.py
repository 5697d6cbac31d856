#!/usr/bin/env python3
"""Two nodes of a mesh on loopback; the second serves another file than it names. After how many tokens does the first
one find out (decision 0018)?

    QUORATE_HOME=... python3 swapped.py path/to/quorate OTHER.gguf|honest [--as-run] [answers]

QUORATE_HOME holds the model as it is. OTHER.gguf is the same model in other numbers, by llama.cpp's quantiser."""
import http.client, json, os, shutil, socket, subprocess, sys, tempfile, time
from pathlib import Path

AS_RUN = "--as-run" in sys.argv
PROGRAM, OTHER, *REST = [word for word in sys.argv[1:] if word != "--as-run"]
ANSWERS = int(REST[0]) if REST else 60
MODEL, FOLDER = "smollm2:135m", "smollm2--135m"
TOKENS = 200
SUBJECTS = ["the sea", "bread", "a violin", "winter", "trains", "chess", "a lighthouse", "bees", "maps", "rain", "clocks", "iron"]
ASKED = {"temperature": 0.7, "top_p": 0.95, "repeat_penalty": 1.1} if AS_RUN else {"temperature": 1.0}


def free_ports(count):
    """For TCP and UDP, as far as one can tell beforehand."""
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def make_home(home):
    shutil.copytree(Path(os.environ["QUORATE_HOME"]) / "models" / FOLDER, home / "models" / FOLDER)
    api, swarm, plane = free_ports(3)
    (home / "config.toml").write_text(
        f'version = 1\n[api]\nlisten = "127.0.0.1:{api}"\n[machine]\nthreads = 1\n[mesh]\n'
        f'listen = "127.0.0.1:{swarm}"\nplane_listen = "127.0.0.1:{plane}"\nmdns = false\n'
    )
    return api


def swap(home):
    """As a cheat would: the manifest says that nothing has changed."""
    manifest = home / "models" / FOLDER / "manifest.json"
    says = json.loads(manifest.read_text())
    file = manifest.parent / says["file"]["owned"]
    shutil.copyfile(OTHER, file)
    stat = file.stat()
    says["bytes"] = stat.st_size
    says["stamp"] = {"bytes": stat.st_size, "modified_ns": stat.st_mtime_ns}
    manifest.write_text(json.dumps(says))


def quorate(home, *words):
    env = dict(os.environ, QUORATE_HOME=str(home), QUORATE_OFFLINE="1")
    return subprocess.run([PROGRAM, *words], env=env, check=True, capture_output=True, text=True).stdout


def up(home):
    env = dict(os.environ, QUORATE_HOME=str(home), QUORATE_OFFLINE="1")
    log = open(home / "up.log", "w")
    return subprocess.Popen([PROGRAM, "up"], env=env, stdout=log, stderr=log)


def neighbour(home):
    experts = [e for peer in json.loads(quorate(home, "peers", "--json"))["peers"] for e in peer["experts"]]
    return experts[0] if experts else None


def wait_for(what):
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            if found := what():
                return found
        except subprocess.CalledProcessError:
            pass
        time.sleep(0.5)
    raise SystemExit("a node does not come up: see up.log in its home")


def ask(port, nth):
    message = {"role": "user", "content": f"Tell me a long story about {SUBJECTS[nth % len(SUBJECTS)]}."}
    body = {"model": "mesh", "max_tokens": TOKENS, "seed": nth, "messages": [message], **ASKED}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    return answer["usage"]["completion_tokens"]


def main():
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder) / "first", Path(folder) / "second"
        port, _ = make_home(first), make_home(second)
        if OTHER != "honest":
            swap(second)
        quorate(first, "mesh", "new")
        nodes = [up(first)]
        try:
            invite = wait_for(lambda: quorate(first, "invite"))
            quorate(second, "join", next(word for word in invite.split() if word.startswith("quorate1")))
            nodes.append(up(second))
            wait_for(lambda: neighbour(first))
            tokens = 0
            for nth in range(ANSWERS):
                tokens += ask(port, nth)
                time.sleep(2)  # idle, so that there is time for an audit
                found = neighbour(first)
                if found["suspicion"]:
                    break
            print(json.dumps({"served": Path(OTHER).name, "asked": ASKED, "answers": nth + 1, "tokens": tokens,
                              "audited": found["audited"], "suspicion": found["suspicion"]}))
        finally:
            for node in nodes:
                node.terminate()
                node.wait()


main()
