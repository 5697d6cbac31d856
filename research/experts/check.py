"""Judges one answer for `quorate eval text --run-programs`: reads {"prompt", "answer"} in JSON, ends with 0 if it is right.

    python3 check.py arithmetic RESULT      a tool call whose expression has this value
    python3 check.py python                 prompt and answer are a function with a body
    python3 check.py sql ROWS               the query, run in SQLite after the prompt's own statements, gives these rows
"""

import ast
import json
import operator
import sqlite3
import sys
from fractions import Fraction

SIGNS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def value(node):
    """Of numbers and the four signs: whatever else an expert writes is not run."""
    match node:
        case ast.Constant(value=int() | float() as number):
            return Fraction(str(number))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in SIGNS:
            return SIGNS[type(op)](value(left), value(right))
        case _:
            raise ValueError("no sum")


def arithmetic(_, answer, result):
    call = json.loads(answer.split("</tool_call>")[0])
    expression = call["arguments"]["expression"]
    return round(float(value(ast.parse(expression, mode="eval").body)), 2) == float(result)


def python(prompt, answer):
    """Up to the first empty line; without one the last line may be unfinished and does not count."""
    body, empty, _ = answer.partition("\n\n")
    if not empty:
        body = body.rpartition("\n")[0]
    [function] = ast.parse(prompt + body).body
    return len(function.body) > 1  # the docstring is the first


def sql(prompt, answer, rows):
    before, select = prompt.rsplit("\n", 1)
    database = sqlite3.connect(":memory:")
    database.executescript(before)
    steps = iter(range(1000))
    database.set_progress_handler(lambda: next(steps, None) is None, 10_000)
    got = database.execute(select + answer.split(";")[0]).fetchall()
    return sorted(map(list, got), key=repr) == sorted(json.loads(rows), key=repr)


def main():
    given = json.load(sys.stdin)
    judge = {"arithmetic": arithmetic, "python": python, "sql": sql}[sys.argv[1]]
    try:
        is_right = judge(given["prompt"], given["answer"], *sys.argv[2:])
    except Exception:  # an answer that cannot be read is wrong
        is_right = False
    sys.exit(0 if is_right else 1)


if __name__ == "__main__":
    main()
