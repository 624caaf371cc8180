"""The host's side of secure sums."""
