"""Results of a run: losses, checkpoints, evaluation, and the model that was trained."""
