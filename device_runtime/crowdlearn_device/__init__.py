"""What runs on the phone: executor, piece, roles, sealed envelopes. Never imports torch by itself."""

__version__ = "0.2.0"
