"""Plans of slices on shares: who is in a triple of helpers when, and what that costs."""
