"""The run's folder, sealed snapshots and the global model."""
