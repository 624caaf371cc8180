"""Training while devices, links and the host die at random: `python -m benchmarks.chaos`."""
