"""The ground floor: all that both ends of a connection must agree on."""
