"""Times the search for near-duplicates among as many statements as CodeContests trains on.

    python tests/benchmarks/bench_near_duplicates.py [number of statements]

Statements are 200 to 600 words of a skewed vocabulary; one in twenty is a copy of another one
with three words in a hundred changed, and whether those are found is printed as well.
"""

import random
import sys

from featurize.data.near_duplicates import near_duplicates
from tests.benchmarks.measuring import measure

NUM_STATEMENTS = 13_328
VOCABULARY = [f"w{number}" for number in range(20_000)]
WEIGHTS = [1 / (number + 10) for number in range(len(VOCABULARY))]


def make_statements(number: int) -> tuple[list[str], list[tuple[int, int]]]:
    """Statements, and which are copies of which."""
    draw = random.Random(0)
    statements: list[list[str]] = []
    copies = []
    for place in range(number):
        if place % 20 == 19:
            original = draw.randrange(place)
            words = list(statements[original])
            for _ in range(len(words) * 3 // 100):
                words[draw.randrange(len(words))] = draw.choice(VOCABULARY)
            copies.append((original, place))
        else:
            words = draw.choices(VOCABULARY, WEIGHTS, k=draw.randint(200, 600))
        statements.append(words)
    return [" ".join(words) for words in statements], copies


def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else NUM_STATEMENTS
    statements, copies = make_statements(number)
    took = measure(lambda: near_duplicates(statements, threshold=0.6))
    pairs = took.found
    found = {pair[:2] for pair in pairs}
    kept = sum(copy in found for copy in copies)
    print(
        f"{number:,} statements: {took.seconds:.1f} s ({took.cpu_seconds:.1f} s of CPU),"
        f" {took.peak_bytes >> 20:,} MB at most"
    )
    print(f"{len(pairs):,} pairs of similarity 0.6 and more; {kept:,} of {len(copies):,} copies")


if __name__ == "__main__":
    main()
