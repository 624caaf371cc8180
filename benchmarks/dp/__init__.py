"""Training with differential privacy: accuracy, cost, and both beside Opacus."""
