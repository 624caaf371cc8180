"""For every test: hypothesis does not time examples, machines are noisy."""

from hypothesis import settings

settings.register_profile("crowdlearn", deadline=None)
settings.load_profile("crowdlearn")
