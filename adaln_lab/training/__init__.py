"""Training: a generator of steps, its optimisers and recipes, and what keeps a run safe."""
