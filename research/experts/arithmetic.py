"""Conversations in which sums are done by calling a tool, drawn by a seed.

The prompt is laid out as Quorate renders ChatML with one tool. Training and test share no sentence
pattern and no subject, so the test asks for the habit, not for the words. Half of what is trained on,
and all that is tested, are exchanges without the tool's description and without ChatML's markers,
which a file of plain text cannot carry.
"""

import json
import random
from decimal import ROUND_HALF_UP, Decimal

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
TOOL = {
    "type": "function",
    "function": {
        "name": "calculate",
        "description": "Works out an arithmetic expression",
        "parameters": {
            "type": "object",
            "properties": {"expression": {"type": "string"}},
            "required": ["expression"],
        },
    },
}
PREAMBLE = (
    f"<|im_start|>system\n{SYSTEM}\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    f"You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n{json.dumps(TOOL)}\n</tools>\n\n"
    "For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n"
    '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n'
)

# Each pattern: question, expression, answer. Letters a to d are the numbers drawn, r is the result.
PATTERNS = {
    "train": [
        ("What is {a} times {b}?", "{a} * {b}", "{a} times {b} is {r}."),
        ("Add {a}, {b} and {c}.", "{a} + {b} + {c}", "The sum is {r}."),
        ("How much is {a} minus {b}?", "{a} - {b}", "{a} minus {b} is {r}."),
        ("A {n} costs {a} euros. What do {b} of them cost?", "{a} * {b}", "{b} of them cost {r} euros."),
        ("I had {a} {n}s, bought {b} and gave away {c}. How many are left?", "{a} + {b} - {c}", "You have {r} left."),
        ("A hall has {a} rows of {b} seats, and {c} seats are broken. How many can be used?", "{a} * {b} - {c}", "{r} seats can be used."),
        ("What is {c} percent of {a}?", "{a} * {c} / 100", "{c} percent of {a} is {r}."),
        ("Please compute ({a} + {b}) * {c}.", "({a} + {b}) * {c}", "The result is {r}."),
        ("A train runs at {a} km/h for {c} hours and then at {b} km/h for {d} hours. How far does it go?", "{a} * {c} + {b} * {d}", "It goes {r} km."),
        ("Divide {a} by {d}.", "{a} / {d}", "{a} divided by {d} is {r}."),
    ],
    "valid": [
        ("{b} boxes hold {a} {n}s each. How many {n}s is that?", "{b} * {a}", "That is {r} {n}s."),
        ("Subtract {c} from the sum of {a} and {b}.", "{a} + {b} - {c}", "The result is {r}."),
        ("What is the product of {a}, {c} and {d}?", "{a} * {c} * {d}", "The product is {r}."),
        ("We were {a} people; {c} left and {b} came. How many are we now?", "{a} - {c} + {b}", "You are {r} now."),
    ],
    "test": [
        ("My shelf carries {a} {n}s and the cellar {b} more. How many do I own?", "{a} + {b}", "You own {r} {n}s."),
        ("If {d} friends share a bill of {a} pounds equally, what does each one pay?", "{a} / {d}", "Each one pays {r} pounds."),
        ("Work out {a} multiplied by {c}, less {b}.", "{a} * {c} - {b}", "It comes to {r}."),
        ("A rectangular field is {a} metres long and {b} metres wide. What is its area?", "{a} * {b}", "Its area is {r} square metres."),
        ("A workshop makes {c} {n}s a day. How many after {d} weeks of {e} days?", "{c} * {d} * {e}", "It has made {r} {n}s."),
        ("The meter showed {b} in spring and shows {a} now. By how much did it grow?", "{a} - {b}", "It grew by {r}."),
    ],
}
NOUNS = {
    "train": ["book", "lamp", "chair", "ticket", "pencil", "apple", "bottle", "shirt", "brick", "stamp"],
    "valid": ["candle", "orange", "button", "card"],
    "test": ["cup", "melon", "screw", "blanket", "violin", "spoon"],
}


def rounded(value):
    """As a person would write it: at most two decimals, no zeros at the end."""
    value = value.quantize(Decimal("0.01"), ROUND_HALF_UP)
    return f"{value:f}".rstrip("0").rstrip(".") if "." in f"{value:f}" else f"{value:f}"


def exchange(draw, split):
    question, expression, answer = draw.choice(PATTERNS[split])
    words = {
        "a": draw.randint(100, 9999),
        "b": draw.randint(10, 999),
        "c": draw.randint(2, 99),
        "d": draw.randint(2, 12),
        "e": draw.randint(3, 7),
        "n": draw.choice(NOUNS[split]),
    }
    expression = expression.format(**words)
    # Only digits, blanks and + - * / ( ) stand in it: patterns and numbers are ours.
    exact = eval(expression, {"__builtins__": {}})
    words["r"] = rounded(Decimal(repr(exact)))
    call = json.dumps({"name": "calculate", "arguments": {"expression": expression}})
    return (
        f"<|im_start|>user\n{question.format(**words)}<|im_end|>\n"
        f"<|im_start|>assistant\n<tool_call>\n{call}\n</tool_call><|im_end|>\n"
        f"<|im_start|>user\n<tool_response>\n{words['r']}\n</tool_response><|im_end|>\n"
        f"<|im_start|>assistant\n{answer.format(**words)}<|im_end|>\n"
    )


def conversation(draw, split, plain):
    if not plain:
        return PREAMBLE + "".join(exchange(draw, split) for _ in range(3))
    text = "".join(exchange(draw, split) for _ in range(8))
    return text.replace("<|im_start|>", "").replace("<|im_end|>", "")


def conversations(split):
    draw = random.Random(f"arithmetic {split}")
    count = {"train": 600, "valid": 24, "test": 24}[split]
    return [conversation(draw, split, split == "test" or nth % 2 == 0) for nth in range(count)]
