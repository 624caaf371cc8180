"""The planner in parts, for studies of how networks divide; `crowdlearn.plan` does all of it for a run.

    from crowdlearn import planning

    problem = planning.paper_problem(graph, slices=5)
    found = planning.search(problem, seconds=10)

A neuron graph comes from crowdlearn_export. `Training` says how it is trained, `costs` what that costs per
neuron; a `Problem` has seats with budgets, and `search` divides its neurons among them with a bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._lazy import lazily

if TYPE_CHECKING:
    from crowdlearn_host.devices.probe import macs_a_sample
    from crowdlearn_host.planner.balanced import balanced
    from crowdlearn_host.planner.baselines import Baseline, baselines
    from crowdlearn_host.planner.micro_batch import sample_seconds
    from crowdlearn_host.planner.plan import PiecePlan, Plan, plan_from_counts, save_plan
    from crowdlearn_host.planner.planner import paper_problem, plan_fleet
    from crowdlearn_host.planner.problem.costs import Costs, Training, costs
    from crowdlearn_host.planner.problem.fleet import Fleet
    from crowdlearn_host.planner.problem.memory import memory_budgets, peak_memory
    from crowdlearn_host.planner.problem.problem import Problem, Seat, Wire, downlink, uplink
    from crowdlearn_host.planner.problem.seats import group_problem
    from crowdlearn_host.planner.problem.wire_format import wire_format
    from crowdlearn_host.planner.shares import shares_cost
    from crowdlearn_host.planner.solver.search import search
    from crowdlearn_host.runs.planned import NetworkPlan, PlanRequest, plan_network
    from crowdlearn_host.spec.run_spec import micro_rows

__all__ = [
    "Baseline",
    "Costs",
    "Fleet",
    "NetworkPlan",
    "PiecePlan",
    "Plan",
    "PlanRequest",
    "Problem",
    "Seat",
    "Training",
    "Wire",
    "balanced",
    "baselines",
    "costs",
    "downlink",
    "group_problem",
    "macs_a_sample",
    "memory_budgets",
    "micro_rows",
    "paper_problem",
    "peak_memory",
    "plan_fleet",
    "plan_from_counts",
    "plan_network",
    "sample_seconds",
    "save_plan",
    "search",
    "shares_cost",
    "uplink",
    "wire_format",
]

__getattr__, __dir__ = lazily(__name__, __file__)
