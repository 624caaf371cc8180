"""Privacy on the host's side: what a run reveals, and what prevents it."""
