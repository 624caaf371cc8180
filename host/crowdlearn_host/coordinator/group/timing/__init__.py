"""Times in a group, learned from the run, and what exceeds them."""
