"""The parameter server: groups, relay, global model and run folder."""
