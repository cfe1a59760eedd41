"""Rows in the fields of public benchmarks of reward models; the texts are made up."""

from typing import Any

REWARD_BENCH: dict[str, Any] = {
    "prompt": "Write a Python function `add(a, b)` that adds two numbers.\n",
    "chosen": "def add(a, b):\n    return a + b\n",
    "chosen_model": "human",
    "rejected": "def add(a, b):\n    return a - b\n",
    "rejected_model": "human",
    "subset": "hep-python",
    "id": 4071,
}
RM_BENCH: dict[str, Any] = {
    "id": 8,
    "prompt": "Write a C++ function `int add(int a, int b)`.",
    "subset": "bigcode/humanevalpack",
    "language": "cpp",
    "task_id": "CPP/8",
    "chosen": [
        "int add(int a, int b) { return a + b; }",
        "The function adds: int add(int a, int b) { return a + b; }",
        "## Solution\n```cpp\nint add(int a, int b) { return a + b; }\n```",
    ],
    "rejected": [
        "int add(int a, int b) { return a - b; }",
        "The function adds: int add(int a, int b) { return a - b; }",
        "## Solution\n```cpp\nint add(int a, int b) { return a - b; }\n```",
    ],
}
