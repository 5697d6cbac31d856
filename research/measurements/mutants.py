#!/usr/bin/env python3
"""Mutation testing of the governance core: are its tests able to fail?

    python3 research/measurements/mutants.py --sample 80 --seed 20261128

Lists every mutant of src/core/governance (without tests and simulator) and of src/core/config.rs, draws a sample with
a fixed seed, and builds and runs the governance tests for each. Only those modules are built, in a crate of their own
under --work, which takes a few seconds each. A mutant that does not compile counts for nothing; one whose tests fail,
or take ten times as long, is killed. --list prints the mutants, --only FILE:LINE tries those of a place.

What is changed: comparisons, && and ||, arithmetic, "!", true and false, whole bodies of functions (as cargo-mutants
does it), arms of a match, and a +1 on a number. The table of settings is data, and left out.
"""

import argparse
import json
import math
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
CORE = ROOT / "src/core"
# The tests of these modules need no other module of the core.
LIB = """pub mod config;
pub mod governance;
pub mod ids;
pub mod law {
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct ListLaw {
        pub tau: f64,
        pub mass: f64,
        pub max_entries: u16,
    }
    impl Default for ListLaw {
        fn default() -> Self {
            ListLaw { tau: 1.0 / 16.0, mass: 0.999, max_entries: crate::limits::LIST_ENTRIES_MAX }
        }
    }
}
pub mod limits;
pub mod link;
pub mod sim {
    pub(crate) mod people;
    pub(crate) use people::Dice;
}
"""
MANIFEST = """[package]
name = "governance-mutants"
version = "0.0.0"
edition = "2024"
[lib]
path = "src/lib.rs"
[features]
sim = []
[workspace]
[profile.dev]
opt-level = 1
debug = false
[profile.dev.package."*"]
opt-level = 3
"""
SWAPS = {
    "==": ["!="], "!=": ["=="], "<": ["<=", ">"], ">": [">=", "<"], "<=": ["<", ">"], ">=": [">", "<"],
    "&&": ["||"], "||": ["&&"], "+": ["-"], "-": ["+"], "*": ["+"], "/": ["*"], "%": ["/"],
    "+=": ["-="], "-=": ["+="], "|=": ["&="], "&=": ["|="],
}
# Whole bodies, by what the function gives back.
BODIES = [
    (r"bool", ["true", "false"]),
    (r"u8|u16|u32|u64|u128|usize|i64", ["0", "1"]),
    (r"Option<.*>", ["None"]),
    (r"Result<\(\), .*>", ["Ok(())"]),
    (r"Vec<.*>", ["Vec::new()"]),
    (r"BTreeMap<.*>", ["BTreeMap::new()"]),
    (r"BTreeSet<.*>", ["BTreeSet::new()"]),
    (r"\[u8; (32|64)\]", ["[0; LEN]"]),
    (r"String", ["String::new()"]),
    (r"", ["{}"]),
]


def blank(text):
    """The same text with comments, strings and characters blanked, so that places stay where they are."""
    out, at = list(text), 0
    pattern = re.compile(r'//[^\n]*|/\*.*?\*/|b?r?"(?:\\.|[^"\\])*"|b?\'(?:\\.|[^\'\\])\'', re.S)
    for found in pattern.finditer(text):
        for at in range(*found.span()):
            if out[at] != "\n":
                out[at] = " "
    return "".join(out)


def without_tests(code):
    at = re.search(r"#\[cfg\(test\)\]\s*(#\[path[^\n]*\]\s*)?mod ", code)
    return code[: at.start()] if at else code


def closing(code, at):
    """Where the bracket that opens at `at` is closed."""
    pairs, depth = {"{": 1, "}": -1, "(": 1, ")": -1, "[": 1, "]": -1}, 0
    for place in range(at, len(code)):
        depth += pairs.get(code[place], 0)
        if depth == 0:
            return place
    raise ValueError("brackets do not match")


def operators(code):
    for found in re.finditer(r"(?<=\s)(==|!=|<=|>=|<|>|&&|\|\||\+=|-=|\|=|&=|\+|-|\*|/|%)(?=\s)", code):
        old, start = found.group(), found.start()
        before = code[:start].rstrip()[-1:]
        after = code[found.end():].lstrip()[:1]
        line = code[code.rfind("\n", 0, start) + 1: code.find("\n", start)]
        is_closure = old == "||" and before in "=(,{"
        is_bound = old == "+" and (after == "'" or re.search(r"\b(impl|dyn|where)\b|: [A-Z]\w* \+", line))
        if not is_closure and not is_bound:
            for new in SWAPS[old]:
                yield start, found.end(), new, f"{old} -> {new}"
    for found in re.finditer(r"(?<![\w!#\]])!(?=[a-z(*])", code):
        yield found.start(), found.end(), "", "! taken away"
    for found in re.finditer(r"\b(true|false)\b", code):
        new = "false" if found.group() == "true" else "true"
        yield found.start(), found.end(), new, f"{found.group()} -> {new}"
    for found in re.finditer(r"(?<=[ (])(\d[\d_]*)(?=[;,) ])", code):
        yield found.start(), found.end(), f"({found.group()} + 1)", f"{found.group()} + 1"


def bodies(code):
    for found in re.finditer(r"\bfn (\w+)", code):
        opening = code.find("(", found.end())
        generic = code.find("<", found.end(), opening)
        if generic >= 0 and "(" in code[generic:opening + 1]:
            opening = code.find("(", code.find(">", generic))
        end = closing(code, opening)
        start = code.find("{", end)
        if start < 0 or ";" in re.sub(r"\[[^\]]*\]", "", code[end:start]):
            continue
        gives = re.search(r"->\s*(.*?)\s*(where\b.*)?$", code[end:start].strip(), re.S)
        gives = re.sub(r"\s+", " ", gives.group(1)) if gives else ""
        for pattern, news in BODIES:
            if re.fullmatch(pattern, gives):
                length = re.search(r"\[u8; (\d+)\]", gives)
                stop = closing(code, start) + 1
                for new in news:
                    new = new.replace("LEN", length.group(1)) if length else new
                    body = "{}" if new == "{}" else "{ " + new + " }"
                    if re.sub(r"\s+", "", code[start:stop]) != re.sub(r"\s+", "", body):
                        yield start, stop, body, f"fn {found.group(1)} -> {new}"
                break


def arms(code):
    """An arm of a match goes where another one takes everything."""
    for found in re.finditer(r"\bmatch\b[^{};]*\{", code):
        start, stop = found.end(), closing(code, found.end() - 1)
        inside = code[start:stop]
        if not re.search(r"\n\s*_ => ", inside):
            continue
        indent = re.match(r"\n( +)", inside)
        if not indent:
            continue
        places = [m.start() for m in re.finditer(rf"\n{indent.group(1)}(?=[^\s}}|)])", inside)] + [len(inside.rstrip())]
        for one, next_one in zip(places, places[1:]):
            text = inside[one:next_one]
            if "=>" in text and not text.strip().startswith("_ =>"):
                name = re.sub(r"\s+", " ", text.strip())[:40]
                yield start + one, start + next_one, "", f"arm gone: {name}"


def mutants():
    files = [p for p in (CORE / "governance").glob("*.rs") if not p.stem.endswith("_tests") and p.stem != "people"]
    all_of_them = []
    for path in sorted(files) + [CORE / "config.rs"]:
        code = without_tests(blank(path.read_text()))
        # Data, and what is asserted of it while compiling.
        data = r"pub const SCHEMA.*?\n\];|const _: \(\) = \{.*?\n\};"
        code = re.sub(data, lambda found: re.sub(r"[^\n]", " ", found.group()), code, flags=re.S)
        for start, stop, new, what in [*operators(code), *bodies(code), *arms(code)]:
            line = code.count("\n", 0, start) + 1
            all_of_them.append((str(path.relative_to(CORE)), line, start, stop, new, what))
    return sorted(set(all_of_them))


def lay_out(work):
    shutil.rmtree(work / "src", ignore_errors=True)
    (work / "src/sim").mkdir(parents=True)
    shutil.copytree(CORE / "governance", work / "src/governance")
    for name in ["config.rs", "ids.rs", "limits.rs", "link.rs", "link_tests.rs", "sim/people.rs"]:
        shutil.copy(CORE / name, work / "src" / name)
    (work / "src/lib.rs").write_text(LIB)
    core = (CORE / "Cargo.toml").read_text()
    (work / "Cargo.toml").write_text(MANIFEST + core[core.index("[dependencies]"):])
    shutil.copy(ROOT / "Cargo.lock", work / "Cargo.lock")


def build(work):
    """The test program, or None with what the compiler says."""
    command = ["cargo", "test", "--offline", "--lib", "--no-run", "--message-format=json"]
    ran = subprocess.run(command, cwd=work, capture_output=True, text=True)
    program = None
    for line in ran.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message.get("profile", {}).get("test"):
            program = message["executable"]
    return (program, "") if ran.returncode == 0 else (None, ran.stderr)


def run(program, patience_s):
    """(Do all tests pass, seconds, the first that does not)."""
    began = time.monotonic()
    child = subprocess.Popen([program, "governance", "config"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                             text=True, start_new_session=True)
    signal.alarm(int(patience_s))
    first = ""
    try:
        for line in child.stdout:
            if line.rstrip().endswith("FAILED"):
                first = line.split()[1]
                break
    except TimeoutError:
        first = "(takes too long)"
    signal.alarm(0)
    if first:
        os.killpg(child.pid, signal.SIGKILL)
    code = child.wait()
    return not first and code == 0, time.monotonic() - began, first or f"exit {code}"


def too_long(_number, _frame):
    raise TimeoutError


def wilson(k, n, z=1.96):
    p, d = k / n, 1 + z * z / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / d, (middle + half) / d


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--sample", type=int, default=80)
    args.add_argument("--skip", type=int, default=0, help="go on after so many of the same sample")
    args.add_argument("--seed", type=int, default=20261128)
    args.add_argument("--only", help="FILE or FILE:LINE below src/core instead of a sample")
    args.add_argument("--list", action="store_true")
    args.add_argument("--work", type=pathlib.Path, default=ROOT / "target/mutants")
    args = args.parse_args()
    found = mutants()
    if args.only:
        chosen = [m for m in found if args.only in (m[0], f"{m[0]}:{m[1]}")]
    else:
        order = random.Random(args.seed).sample(found, len(found))
        chosen = order[args.skip: args.sample]
    if args.list:
        for file, line, _, _, _, what in chosen:
            print(f"{file}:{line}: {what}")
        return
    signal.signal(signal.SIGALRM, too_long)
    lay_out(args.work)
    program, why = build(args.work)
    if not program:
        sys.exit(why)
    passes, base_s, first = run(program, 600)
    if not passes:
        sys.exit(f"the tests fail without a mutant: {first}")
    print(f"{len(found)} mutants, {len(chosen)} tried; the tests take {base_s:.0f} s", flush=True)
    counts = {"killed": 0, "SURVIVED": 0, "does not compile": 0}
    for file, line, start, stop, new, what in chosen:
        path = args.work / "src" / file
        text = path.read_text()
        path.write_text(text[:start] + new + text[stop:])
        program, _ = build(args.work)
        if program:
            passes, took_s, first = run(program, max(60, 10 * base_s))
            came = "SURVIVED" if passes else "killed"
        else:
            came, took_s, first = "does not compile", 0, ""
        path.write_text(text)
        counts[came] += 1
        by = f"  by {first}" if came == "killed" else ""
        print(f"{came:<16}  {file}:{line}: {what}{by}  ({took_s:.0f} s)", flush=True)
    killed, viable = counts["killed"], counts["killed"] + counts["SURVIVED"]
    print(counts)
    if viable:
        low, high = wilson(killed, viable)
        print(f"killed {killed} of {viable}: {killed / viable:.1%}, 95 % interval {low:.1%} to {high:.1%}")


if __name__ == "__main__":
    main()
