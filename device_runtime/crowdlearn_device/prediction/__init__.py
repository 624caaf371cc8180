"""The model that a device keeps, and predictions of it."""
