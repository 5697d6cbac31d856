"""Writes tasks.toml, what `quorate eval text` asks: sums, functions and queries that no expert was trained on.

    python3 tasks.py
"""

import json
import random
import re
import sqlite3

from arithmetic import exchange
from places import DOCS, HERE

PER_DOMAIN = 16
FUNCTION = re.compile(r'^def \w+\([^)]*\)[^:\n]*:\n    (?:r|u)?"""(?:(?!""").)+?"""\n', re.MULTILINE | re.DOTALL)
FUNCTION_CHARS = 1000

TABLES = [
    ("books", [("title", "TEXT"), ("year", "INTEGER"), ("price", "REAL")],
     [("Harbour", 1987, 12.5), ("Salt", 2003, 8.0), ("North", 2011, 15.0), ("Ink", 1994, 9.5)]),
    ("trains", [("city", "TEXT"), ("platform", "INTEGER"), ("delay", "INTEGER")],
     [("Bremen", 4, 0), ("Kassel", 7, 12), ("Ulm", 4, 3), ("Trier", 2, 25)]),
    ("orders", [("customer", "TEXT"), ("amount", "INTEGER"), ("paid", "INTEGER")],
     [("Ada", 120, 1), ("Ben", 45, 0), ("Ada", 60, 1), ("Cleo", 300, 0)]),
    ("hens", [("name", "TEXT"), ("eggs", "INTEGER"), ("age", "INTEGER")],
     [("Berta", 5, 2), ("Frieda", 3, 4), ("Lotte", 6, 1), ("Emma", 2, 6)]),
]
QUESTIONS = [
    ("How many rows are in {table}?", "SELECT COUNT(*) FROM {table}"),
    ("The {text} of every row of {table}.", "SELECT {text} FROM {table}"),
    ("The {text} of the rows of {table} where {number} is greater than {value}.", "SELECT {text} FROM {table} WHERE {number} > {value}"),
    ("The sum of {number} over all rows of {table}.", "SELECT SUM({number}) FROM {table}"),
]


def arithmetic():
    draw = random.Random("tasks arithmetic")
    for nth in range(PER_DOMAIN):
        texts = [exchange(draw, "test").replace("<|im_start|>", "").replace("<|im_end|>", "") for _ in range(2)]
        head, mark, _ = texts[1].partition("<tool_call>\n")
        result = re.search(r"<tool_response>\n(.*)\n</tool_response>", texts[1]).group(1)
        yield texts[0] + head + mark, ["arithmetic", result], 48, ["</tool_call>"]


def python():
    texts = [path.read_text() for path in sorted((DOCS / "python").glob("*.txt"))]
    found = [match.group() for text in texts for match in FUNCTION.finditer(text)]
    short = sorted({function for function in found if len(function) <= FUNCTION_CHARS})
    for function in random.Random("tasks python").sample(short, min(PER_DOMAIN, len(short))):
        yield function, ["python"], 64, []


def sql():
    draw = random.Random("tasks sql")
    for table, columns, rows in TABLES:
        texts, numbers = ([n for n, kind in columns if (kind == "TEXT") == is_text] for is_text in (True, False))
        schema = ", ".join(f"{name} {kind}" for name, kind in columns)
        inserts = "\n".join(f"INSERT INTO {table} VALUES ({', '.join(map(repr, row))});" for row in rows)
        before = f"CREATE TABLE {table} ({schema});\n{inserts}\n"
        for question, query in QUESTIONS:
            number = draw.choice(numbers)
            values = sorted(row[[n for n, _ in columns].index(number)] for row in rows)
            words = {"table": table, "text": texts[0], "number": number, "value": values[len(values) // 2 - 1]}
            database = sqlite3.connect(":memory:")
            database.executescript(before)
            expected = database.execute(query.format(**words)).fetchall()
            yield f"{before}-- {question.format(**words)}\nSELECT", ["sql", json.dumps(expected)], 32, [";", "\n\n"]


def main():
    tables = [f"# Made by tasks.py; check.py judges. Functions are quoted from docs/python, whose licences hold for them.\n"]
    for domain in (arithmetic, python, sql):
        for nth, (prompt, program, tokens, stop) in enumerate(domain()):
            fields = {
                "name": f"{domain.__name__}-{nth:02}",
                "domain": domain.__name__,
                "prompt": prompt,
                "program": ["python3", "check.py", *program],
                "tokens": tokens,
                "stop": stop,
            }
            # A JSON string or list of strings without control characters beyond \n is TOML too.
            lines = [f"{key} = {json.dumps(value)}" for key, value in fields.items()]
            tables.append("[[task]]\n" + "\n".join(lines) + "\n")
    (HERE / "tasks.toml").write_text("\n".join(tables))


if __name__ == "__main__":
    main()
