"""What several kinds of jobs do: load a model, unlearn, audit."""
