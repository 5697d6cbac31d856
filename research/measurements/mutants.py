#!/usr/bin/env python3
"""Mutation testing of the governance core: are its tests able to fail?

    python3 -m venv VENV && VENV/bin/pip install tree-sitter tree-sitter-rust
    VENV/bin/python research/measurements/mutants.py --json research/measurements/mutants.json

Takes every mutant of src/core/governance (without tests and simulator) and of src/core/config.rs, and runs the tests of
those modules for each: the quick ones of the same file, then all quick ones, then the slow ones. They are built in a
crate of their own under --work, as in the release profile: sums that overflow do not panic.

One build holds all mutants; QUORATE_MUTANT switches one of them on. Those that rustc refuses are left out and counted;
those that cannot be switched at run time (constants) are built one by one. Killed is one whose tests fail, need more
than ten times their processor time (20 s at least), or more than 4 GiB.

The classes are those of cargo-mutants (its operators, its values for whole functions, arms and guards of matches), and
two of our own: true <-> false, and a number + 1. The tables of settings and presets are data, and what is asserted
while compiling is its own test: both are left out, as are arguments of macros.
"""

import argparse
import bisect
import collections
import concurrent.futures
import dataclasses
import itertools
import json
import math
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys

import tree_sitter
import tree_sitter_rust

ROOT = pathlib.Path(__file__).resolve().parents[2]
CORE = ROOT / "src/core"
PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_rust.language()))
QUICK_S = 0.15
# The tests of these modules need no other module of the core. Whatever panics ends the run: one test is enough.
LIB = """#![allow(warnings, arithmetic_overflow, overflowing_literals, unconditional_panic)]
pub mod config;
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
static ON: std::sync::LazyLock<u32> = std::sync::LazyLock::new(|| {
    std::panic::set_hook(Box::new(|_| {
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("?");
        std::io::Write::write_all(&mut std::io::stderr(), format!("killed by {test}\\n").as_bytes());
        std::process::exit(101);
    }));
    std::env::var("QUORATE_MUTANT").map_or(0, |n| n.parse().unwrap())
});
pub fn mutant(n: u32) -> bool {
    *ON == n
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
overflow-checks = false
debug-assertions = false
[profile.dev.package."*"]
opt-level = 3
"""
SWAPS = {
    "==": ["!="], "!=": ["=="], "<": ["==", ">", "<="], ">": ["==", "<", ">="], "<=": [">"], ">=": ["<"],
    "&&": ["||"], "||": ["&&"], "+": ["-", "*"], "-": ["+", "/"], "*": ["+", "/"], "/": ["%", "*"], "%": ["/", "+"],
    "<<": [">>"], ">>": ["<<"], "&": ["|", "^"], "|": ["&", "^"], "^": ["|", "&"], "+=": ["-=", "*="],
    "-=": ["+=", "/="], "*=": ["+=", "/="], "/=": ["%=", "*="], "%=": ["/=", "+="], "<<=": [">>="], ">>=": ["<<="],
    "&=": ["|="], "|=": ["&="], "^=": ["|=", "&="],
}
NOT_CODE = {"token_tree", "type_arguments", "closure_parameters", "parameters", "use_declaration",
            "struct_item", "enum_item", "type_item"}


@dataclasses.dataclass
class Mutant:
    number: int
    file: str
    line: int
    column: int
    kind: str
    what: str
    start: int
    end: int
    new: str
    # Constants cannot be switched at run time.
    is_alone: bool
    result: str = ""
    by: str = ""

    def name(self):
        return f"{self.file}:{self.line}:{self.column}: {self.what}"


def text(node):
    return node.text.decode()


def values(kind):
    """What cargo-mutants would have a function give back, by its type."""
    written = text(kind) if kind else "()"
    one = {"bool": ["true", "false"], "String": ["String::new()", '"xyzzy".into()'], "()": ["()"], "!": []}
    if written in one:
        return one[written]
    if re.fullmatch(r"[iu](8|16|32|64|128|size)", written):
        return ["0", "1"] + ["-1"] * (written[0] == "i")
    if re.fullmatch(r"f(32|64)", written):
        return ["0.0", "1.0", "-1.0"]
    if written.endswith("::Result"):
        return ["Ok(Default::default())"]
    if kind.type == "generic_type":
        name = text(kind.child_by_field_name("type")).split("::")[-1]
        of = [a for a in kind.child_by_field_name("type_arguments").named_children if a.type not in ("lifetime", "type_binding")]
        inner = values(of[0]) if of else []
        if name in ("Result", "Box", "Arc", "Rc"):
            return [f"Ok({v})" if name == "Result" else f"{name}::new({v})" for v in inner]
        if name in ("Option", "Vec"):
            return ["None", *(f"Some({v})" for v in inner)] if name == "Option" else ["vec![]", *(f"vec![{v}]" for v in inner)]
        if name in ("BTreeSet", "VecDeque"):
            return [f"{name}::new()", *(f"{name}::from_iter([{v}])" for v in inner)]
        if name == "BTreeMap":
            pairs = itertools.product(inner, values(of[1]))
            return ["BTreeMap::new()", *(f"BTreeMap::from_iter([({k}, {v})])" for k, v in pairs)]
    if kind.type == "array_type":
        length = text(kind.child_by_field_name("length"))
        return [f"[{v}; {length}]" for v in values(kind.child_by_field_name("element"))]
    if kind.type == "tuple_type":
        return [f"({', '.join(vs)})" for vs in itertools.product(*map(values, kind.named_children))]
    if kind.type == "reference_type":
        inner = kind.child_by_field_name("type")
        if text(inner) == "str":
            return ['""', '"xyzzy"']
        if inner.type == "array_type" and not inner.child_by_field_name("length"):
            element = values(inner.child_by_field_name("element"))
            return ["Vec::leak(Vec::new())", *(f"Vec::leak(vec![{v}])" for v in element)]
        return [f"Box::leak(Box::new({v}))" for v in values(inner)]
    return ["Default::default()"]


def iterated(kind):
    """The type of the items, where a function gives back some iterator."""
    todo = [kind] if kind and "impl " in text(kind) else []
    while todo:
        node = todo.pop()
        if node.type == "type_binding":
            return node.child_by_field_name("type")
        todo += node.named_children
    return None


class File:
    """A source file, its mutants, and its text in which each can be switched on."""

    def __init__(self, path, first):
        self.name, self.first, self.mutants = str(path.relative_to(CORE)), first, []
        self.source = path.read_bytes()
        self.groups = {}
        self.tree = PARSER.parse(self.source)
        self.walk(self.tree.root_node, "", False)

    def add(self, node, kind, what, news, is_alone, within=""):
        group = self.groups.setdefault(node.id, [])
        row, column = (node.child_by_field_name("operator") or node).start_point
        for new, how in news:
            number = self.first + len(self.mutants)
            name = f"{what} -> {how}" + (f" in {within}" if within else "")
            mutant = Mutant(number, self.name, row + 1, column + 1, kind, name, node.start_byte, node.end_byte, new, is_alone)
            self.mutants.append(mutant)
            group.append(mutant)

    def walk(self, node, within, is_alone):
        kind = node.type
        if kind == "const_item":
            value = text(node.child_by_field_name("value"))
            if text(node.child_by_field_name("name")) == "_" or value.startswith(("&[", "[")):
                return
            is_alone = True
        if kind == "function_item":
            within = text(node.child_by_field_name("name"))
            modifiers = [text(c) for c in node.children if c.type == "function_modifiers"]
            is_alone = any("const" in m for m in modifiers)
            self.function(node, within, is_alone)
        elif kind in ("binary_expression", "compound_assignment_expr"):
            a, op, b = (node.child_by_field_name(f) for f in ("left", "operator", "right"))
            news = [(f"({text(a)}) {new} ({text(b)})" if kind[0] == "b" else f"{text(a)} {new} {text(b)}", new)
                    for new in SWAPS.get(text(op), [])]
            self.add(node, "operator", text(op), news, is_alone, within)
        elif kind == "unary_expression" and text(node.children[0]) in "!-":
            self.add(node, "operator", text(node.children[0]), [(text(node.children[1]), "nothing")], is_alone, within)
        elif kind == "boolean_literal":
            other = "false" if text(node) == "true" else "true"
            self.add(node, "true, false", text(node), [(other, other)], is_alone, within)
        elif kind == "integer_literal" and within:
            digits, suffix = re.fullmatch(r"(0x[\da-f_]+|[\d_]+?)(?:_?([iu]\w+))?", text(node)).groups()
            more = str(int(digits.replace("_", ""), 0) + 1)
            self.add(node, "number + 1", text(node), [(more + (suffix or ""), more)], is_alone, within)
        elif kind == "match_block":
            self.arms(node, within, is_alone)
        if kind == "call_expression" and text(node.child_by_field_name("function")).endswith("with_capacity"):
            return
        is_test = False
        for at, child in enumerate(node.children):
            field = node.field_name_for_child(at)
            if child.type == "attribute_item":
                is_test = is_test or bool(re.match(r"#\[cfg\(.*\btest\b", text(child)))
            elif child.type == "match_pattern":
                condition = child.child_by_field_name("condition")
                if condition:
                    self.walk(condition, within, is_alone)
            elif "comment" not in child.type:
                if not (is_test or child.type in NOT_CODE or field in ("pattern", "field", "type", "length", "return_type")):
                    self.walk(child, within, is_alone)
                is_test = False

    def function(self, node, name, is_alone):
        body, gives = node.child_by_field_name("body"), node.child_by_field_name("return_type")
        trait = node.parent.parent.child_by_field_name("trait") if node.parent.type == "declaration_list" else None
        if not body or not body.named_children or name == "new" or trait and text(trait) == "Default":
            return
        item = iterated(gives)
        if item:
            news = ["::std::iter::empty()", *(f"::std::iter::once({v})" for v in values(item))]
        else:
            news = values(gives)
        same = re.sub(r"\s", "", text(body))
        news = [("{ %s }" % v, v) for v in news if re.sub(r"\s", "", "{%s}" % v) != same]
        self.add(body, "function", f"fn {name}", news, is_alone)

    def arms(self, block, within, is_alone):
        """An arm goes where another one takes everything; a guard is always right, or never."""
        arms = [arm for arm in block.named_children if arm.type == "match_arm"]
        has_rest = any(text(arm.child_by_field_name("pattern")) == "_" for arm in arms)
        for arm in arms:
            pattern = arm.child_by_field_name("pattern")
            condition = pattern.child_by_field_name("condition")
            if condition:
                news = [("true", "true"), ("false", "false")]
                self.add(pattern, "arm or guard", f"if {text(condition)}", news, is_alone, within)
                for mutant in self.groups[pattern.id]:
                    mutant.start, mutant.end = condition.start_byte, condition.end_byte
            elif has_rest and text(pattern) != "_":
                self.add(arm, "arm or guard", f"{' '.join(text(pattern).split())} =>", [("", "gone")], is_alone, within)

    def switched(self, out):
        """The text with all mutants but those that are out."""
        return self.emit(self.tree.root_node, out)

    def emit(self, node, out):
        parts, at = [], node.start_byte
        for child in node.children:
            parts += [self.source[at:child.start_byte].decode(), self.emit(child, out)]
            at = child.end_byte
        plain = "".join(parts) + self.source[at:node.end_byte].decode()
        group = [m for m in self.groups.get(node.id, []) if m.number not in out]
        if not group:
            return plain
        is_on = {m.number: f"crate::mutant({m.number})" for m in group}
        if node.type == "block":
            plain = self.body(plain, group, is_on)
        elif node.type == "match_pattern":
            condition = node.child_by_field_name("condition")
            pattern = text(node.named_children[0])
            by = {m.new: is_on[m.number] for m in group}
            guard = self.emit(condition, out)
            guard = guard if "let_c" in condition.type else f"({guard})"
            guard = guard if "false" not in by else f"!{by['false']} && {guard}"
            plain = f"{pattern} if {guard}" if "true" not in by else f"{pattern} if {by['true']} || {guard}"
        elif node.type == "match_arm":
            pattern, value = node.child_by_field_name("pattern"), plain
            length = len(text(pattern))
            plain = f"{value[:length]} if !{is_on[group[0].number]} {value[length:]}"
        else:
            ifs = "".join(f"if {is_on[m.number]} {{/*[{m.number}*/ {m.new} /*]*/}} else " for m in group)
            plain = f"({ifs}{{ {plain} }})"
        return f"/*{{{' '.join(map(str, is_on))}*/{plain}/*}}*/"

    def body(self, plain, group, is_on):
        if not any("std::iter::" in m.new for m in group):
            ifs = "".join(f"if {is_on[m.number]} {{ return /*[{m.number}*/ {m.new} /*]*/; }}\n" for m in group)
            return f"{{ {ifs} {plain} }}"
        # Some iterator is one type: it is cut off, and the other item stands behind it.
        is_any = " || ".join(is_on.values())
        others = "".join(f".chain(if {is_on[m.number]} {{ Some(/*[{m.number}*/ {m.new[len('{ ::std::iter::once('):-3]} /*]*/) }} else {{ None }})"
                         for m in group if "once(" in m.new)
        return f"{{ let real = {plain}; real.take(if {is_any} {{ 0 }} else {{ usize::MAX }}){others} }}"


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
    """The test program, and the errors of rustc."""
    command = ["nice", "-n", "10", "cargo", "test", "--offline", "--lib", "--no-run", "--message-format=json"]
    ran = subprocess.run(command, cwd=work, capture_output=True, text=True)
    program, errors = None, []
    for line in ran.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message.get("profile", {}).get("test"):
            program = message["executable"]
        if message.get("message", {}).get("level") == "error" and message["message"]["spans"]:
            errors.append(message["message"])
    if ran.returncode != 0 and not errors:
        sys.exit(ran.stderr)
    return program if ran.returncode == 0 else None, errors


def blamed(error, written):
    """The mutants whose text the compiler does not like: (one that never fits, or some that cannot be switched)."""
    spans = [s for s in error["spans"] if s["is_primary"]] + [s for c in error["children"] for s in c["spans"]] + error["spans"]
    for span in spans:
        while span.get("expansion"):
            span = span["expansion"]["span"]
        opened = []
        for mark in re.finditer(rb"/\*(?:\[(\d+)|\{([\d ]+)|[\]}])\*/", written.get(span["file_name"], b"")):
            if mark.start() >= span["byte_start"]:
                break
            one, some = mark.groups()
            if one or some:
                opened.append(([int(one)], "does not compile") if one else ([*map(int, some.split())], "alone"))
            else:
                opened.pop()
        if opened:
            return opened[-1]
    sys.exit(f"no mutant is to blame for this:\n{error['rendered']}")


def switch_all(work, files):
    """One program with all mutants that rustc takes."""
    mutants = {m.number: m for file in files for m in file.mutants}
    out = {m.number for m in mutants.values() if m.is_alone}
    for turn in range(40):
        written = {}
        for file in files:
            written[f"src/{file.name}"] = file.switched(out).encode()
            (work / "src" / file.name).write_bytes(written[f"src/{file.name}"])
        program, errors = build(work)
        if program:
            return program
        for error in errors:
            numbers, why = blamed(error, written)
            for number in set(numbers) - out:
                out.add(number)
                mutants[number].is_alone = why == "alone"
                mutants[number].result = "" if why == "alone" else why
        print(f"turn {turn + 1}: {len(errors)} errors, {len(out)} mutants left out", flush=True)
    sys.exit("rustc still finds errors after 40 turns")


def run(program, number, tests, processor_s):
    """None where all tests pass, else what came first."""
    bounds = ["nice", "-n", "10", "prlimit", f"--cpu={max(20, math.ceil(10 * processor_s))}", f"--as={4 << 30}", "--core=0"]
    env = {**os.environ, "QUORATE_MUTANT": str(number), "PROPTEST_RNG_SEED": "1", "PROPTEST_MAX_SHRINK_ITERS": "0",
           "PROPTEST_DISABLE_FAILURE_PERSISTENCE": "1"}
    command = [*bounds, program, "--test-threads=1", "--exact", *tests]
    ran = subprocess.run(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if ran.returncode == 0:
        return None
    if ran.returncode in (-9, -24):
        return "(takes too long)"
    by = re.search(r"killed by (.*)", ran.stderr)
    return by.group(1) if by else f"(ends with {ran.returncode})"


def timed(program):
    """Processor seconds of every test by itself."""
    listed = subprocess.run([program, "--list", "--format", "terse"], capture_output=True, text=True).stdout
    tests = {}
    for name in re.findall(r"((?:governance|config)::.*): test", listed):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        failed = run(program, 0, [name], 60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if failed:
            sys.exit(f"without a mutant {name} fails: {failed}")
        tests[name] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return tests


def attempt(program, number, file, tests):
    """Quick tests of the same file, all other quick ones, and one slow one after the other."""
    stem = pathlib.Path(file).stem
    near, quick, slow = [], [], []
    for name, took_s in sorted(tests.items(), key=lambda t: (stem not in t[0], t[1])):
        (slow if took_s > QUICK_S else near if stem in name else quick).append(name)
    for some in [near, quick, *([name] for name in slow)]:
        by = run(program, number, some, sum(tests[name] for name in some)) if some else None
        if by:
            return by
    return None


def try_alone(work, mutant, tests):
    shutil.copytree(CORE / "governance", work / "src/governance", dirs_exist_ok=True)
    shutil.copy(CORE / "config.rs", work / "src/config.rs")
    path = work / "src" / mutant.file
    source = path.read_bytes()
    path.write_bytes(source[:mutant.start] + mutant.new.encode() + source[mutant.end:])
    program, _ = build(work)
    if not program:
        mutant.result = "does not compile"
        return
    note(mutant, attempt(program, 0, mutant.file, tests))


def note(mutant, by):
    mutant.result, mutant.by = ("killed", by) if by else ("survived", "")
    if not by:
        print(f"SURVIVED  {mutant.name()}", flush=True)


def table(mutants, key):
    by = collections.defaultdict(collections.Counter)
    for m in mutants:
        by[key(m)][m.result] += 1
    rows = [(name, c["killed"], c["survived"], c["does not compile"]) for name, c in sorted(by.items())]
    rows.append(("all", *(sum(row[at] for row in rows) for at in (1, 2, 3))))
    for name, killed, survived, unfit in rows:
        share = f"{killed / (killed + survived):.1%}" if killed + survived else "-"
        print(f"| {name} | {killed} | {survived} | {unfit} | {share} |")


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--only", help="FILE or FILE:LINE below src/core")
    args.add_argument("--again", type=pathlib.Path, help="only what survived in this file of --json")
    args.add_argument("--no-alone", action="store_true", help="without those that need a build of their own")
    args.add_argument("--list", action="store_true")
    args.add_argument("--json", type=pathlib.Path, help="write what came of each here")
    args.add_argument("--jobs", type=int, default=2)
    args.add_argument("--work", type=pathlib.Path, default=ROOT / "target/mutants")
    args = args.parse_args()
    paths = [p for p in (CORE / "governance").glob("*.rs") if not p.stem.endswith("_tests") and p.stem != "people"]
    files = []
    for path in [*sorted(paths), CORE / "config.rs"]:
        files.append(File(path, 1 + sum(len(f.mutants) for f in files)))
    chosen = [m for file in files for m in file.mutants]
    if args.only:
        chosen = [m for m in chosen if args.only in (m.file, f"{m.file}:{m.line}")]
    if args.again:
        names = {row[0] for row in json.loads(args.again.read_text()) if row[2] == "survived"}
        chosen = [m for m in chosen if m.name() in names]
    if args.no_alone:
        chosen = [m for m in chosen if not m.is_alone]
    if args.list:
        for mutant in chosen:
            print(f"{mutant.number} {mutant.name()}  [{mutant.kind}]{' alone' if mutant.is_alone else ''}")
        return
    lay_out(args.work)
    program = switch_all(args.work, files)
    tests = timed(program)
    slow = {name: round(took_s, 2) for name, took_s in tests.items() if took_s > QUICK_S}
    print(f"{len(chosen)} mutants; {len(tests)} tests take {sum(tests.values()):.1f} s, {len(slow)} of them {sum(slow.values()):.1f} s", flush=True)
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        todo = {pool.submit(attempt, program, m.number, m.file, tests): m for m in chosen if not m.is_alone and not m.result}
        for done in concurrent.futures.as_completed(todo):
            note(todo[done], done.result())
    for mutant in chosen:
        if mutant.is_alone:
            try_alone(args.work, mutant, tests)
    print("| | killed | survived | does not compile | killed of those that compile |\n|---|---|---|---|---|")
    table(chosen, lambda m: m.kind)
    table(chosen, lambda m: m.file)
    if args.json:
        rows = [json.dumps([m.name(), m.kind, m.result, m.by]) for m in chosen]
        args.json.write_text("[\n" + ",\n".join(rows) + "\n]\n")


if __name__ == "__main__":
    main()
