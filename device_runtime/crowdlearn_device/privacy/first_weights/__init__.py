"""First weights from a seed that devices draw together, so that neither a host nor a device chooses them."""
