"""Parts of the pairs judged apart: by problem, by length difference, by edit distance."""
