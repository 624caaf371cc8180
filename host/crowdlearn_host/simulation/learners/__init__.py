"""Training of a simulated group."""
