"""Seeds for every place of a run, so that any step can be drawn without the ones before it."""

MASK = 2**64 - 1


def mix_seed(seed: int, *position: int) -> int:
    """One well-mixed seed for a place in a run: neighbours share nothing."""
    state = 0
    for number in (seed, *position):  # splitmix64, a step for each number
        state = (state + number + 0x9E3779B97F4A7C15) & MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
        state ^= state >> 31
    return state >> 1
