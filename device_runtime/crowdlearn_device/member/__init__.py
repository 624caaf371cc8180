"""A device as a member of its group: state machines, messages in and effects out."""
