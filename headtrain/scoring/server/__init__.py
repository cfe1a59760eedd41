"""A critic behind HTTP, in the shapes that RL frameworks and inference servers speak."""
