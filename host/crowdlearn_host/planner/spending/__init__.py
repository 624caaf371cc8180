"""The spending of a plan: bytes and joules."""
