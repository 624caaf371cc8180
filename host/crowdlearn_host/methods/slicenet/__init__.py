"""SliceNet's sliding window of shared weights."""
