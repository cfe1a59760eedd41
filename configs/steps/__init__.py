"""The steps of commands that open a project: features, heads, evaluations and scores."""
