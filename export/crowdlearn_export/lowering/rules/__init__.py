"""Rules that lower one operator each."""
