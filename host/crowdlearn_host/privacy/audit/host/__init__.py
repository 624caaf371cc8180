"""The role host: what shared weights, or their sums, reveal of who was trained on."""
