"""Planner, fleet, parameter server, virtual phones, simulation, command line, report."""
