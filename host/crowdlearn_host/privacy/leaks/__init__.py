"""What followers re-identify by the sums of each bundle of a network: measured, and kept."""
