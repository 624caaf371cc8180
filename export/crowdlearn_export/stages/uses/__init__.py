"""How a model without layers of neurons uses its parameters, and the norms of samples' gradients by that."""
