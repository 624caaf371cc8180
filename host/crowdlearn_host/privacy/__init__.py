"""Privacy on the host's side: what a run gives away, and what prevents it."""
