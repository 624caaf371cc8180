"""Mixed-integer linear programs as data, solved by HiGHS on one thread and the same way every time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

import highspy
import numpy as np

from .clock import PATIENCE

Row = tuple[float, Mapping[int, float], float]
"""A row by its least value, its coefficients by column, and its most."""

TOLERANCE = 1e-6
FRUGAL = {
    "presolve": "off",
    "mip_heuristic_effort": 0.0,
    "mip_heuristic_run_rins": False,
    "mip_heuristic_run_rens": False,
    "mip_heuristic_run_root_reduced_cost": False,
    "mip_heuristic_run_feasibility_jump": False,
    "mip_allow_restart": False,
    "mip_detect_symmetry": False,
}


@dataclass(frozen=True)
class Answer:
    """The result of HiGHS. `values` is empty if no feasible point is known; `duals` belong to the rows of an
    LP, and `basis` to its columns and rows.
    """

    values: tuple[float, ...]
    objective: float
    bound: float
    duals: tuple[float, ...] = ()
    infeasible: bool = False
    basis: Basis | None = None


@dataclass(frozen=True)
class Basis:
    """An optimal basis of an LP: the status of each column and each row."""

    columns: tuple[Any, ...]
    rows: tuple[Any, ...]


IDLE, SLACK = highspy.HighsBasisStatus.kLower, highspy.HighsBasisStatus.kBasic
"""The status of a column, and of a row, that a basis does not know yet."""


@dataclass
class Program:
    """A minimisation: columns with bounds, rows with bounds."""

    costs: list[float] = field(default_factory=list)
    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    integer: list[bool] = field(default_factory=list)
    rows: list[tuple[float, float, dict[int, float]]] = field(default_factory=list)

    def column(self, cost: float, lower: float = 0, upper: float = inf, *, integer: bool = False) -> int:
        """Add a variable and return its index."""
        self.costs.append(cost)
        self.lower.append(lower)
        self.upper.append(upper)
        self.integer.append(integer)
        return len(self.costs) - 1

    def row(self, lower: float, coefficients: Mapping[int, float], upper: float) -> int:
        """Add `lower <= coefficients . values <= upper` and return its index."""
        self.rows.append((lower, upper, {i: value for i, value in coefficients.items() if value}))
        return len(self.rows) - 1

    def solve(
        self,
        *,
        seconds: float = inf,
        relaxed: bool = False,
        absolute_gap: float = 0.0,
        start: Mapping[int, float] | None = None,
        basis: Basis | None = None,
        small: bool = False,
    ) -> Answer:
        """Solve a minimisation; `relaxed` drops integrality and returns duals.

        `seconds` are of the processor, or PATIENCE times as many by the clock. `start` is a feasible point,
        possibly partial, and `basis` one that an LP begins with. `small` leaves out what only pays off on
        large programs.
        """
        solver = self._solver(seconds, absolute_gap, relaxed=relaxed, small=small)
        if start:
            indices = np.fromiter(start.keys(), np.int32)
            solver.setSolution(len(indices), indices, np.fromiter(start.values(), np.float64))
        if basis is not None:
            _begin(solver, basis)
        if seconds < inf:
            solver.setCallback(_until(time.thread_time() + max(seconds, 0.01)), None)
            for kind in (highspy.cb.kCallbackMipInterrupt, highspy.cb.kCallbackSimplexInterrupt):
                solver.startCallback(kind)
        solver.run()
        if basis is not None and solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            return self.solve(seconds=seconds, relaxed=relaxed)
        return self._answer(solver, mixed=any(self.integer) and not relaxed)

    def bounds(self, basis: Basis, rows: Sequence[Row]) -> list[float]:
        """Return the least cost of the linear relaxation with each of these rows, one at a time; inf where
        there is no point. `basis` is that of the optimum without.
        """
        solver = self._solver(inf, 0.0, relaxed=True, small=False)
        found = []
        for low, coefficients, high in rows:
            _begin(solver, basis)
            columns = np.fromiter(coefficients.keys(), np.int32)
            solver.addRow(low, high, len(columns), columns, np.fromiter(coefficients.values(), np.float64))
            solver.run()
            solved = solver.getModelStatus() == highspy.HighsModelStatus.kOptimal
            found.append(solver.getInfo().objective_function_value if solved else inf)
            solver.deleteRows(1, np.array([len(self.rows)], np.int32))
        return found

    def _solver(self, seconds: float, absolute_gap: float, *, relaxed: bool, small: bool) -> Any:
        solver = highspy.Highs.__base__()  # the plain binding: the wrapper prints a banner
        for option, value in {
            "output_flag": False,
            "threads": 1,
            "mip_rel_gap": TOLERANCE,
            "mip_abs_gap": max(absolute_gap, TOLERANCE),
            "time_limit": PATIENCE * max(seconds, 0.01),
            **(FRUGAL if small else {}),
        }.items():
            solver.setOptionValue(option, value)
        solver.passModel(self._model(relaxed))
        return solver

    @staticmethod
    def _answer(solver: Any, *, mixed: bool) -> Answer:
        status = solver.getModelStatus()
        info, solution = solver.getInfo(), solver.getSolution()
        if status in (highspy.HighsModelStatus.kInfeasible, highspy.HighsModelStatus.kUnboundedOrInfeasible):
            return Answer((), inf, inf, infeasible=True)
        found = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
        bound = info.mip_dual_bound if mixed else info.objective_function_value
        return Answer(
            tuple(solution.col_value) if found else (),
            info.objective_function_value if found else inf,
            bound if mixed or status == highspy.HighsModelStatus.kOptimal else -inf,
            () if mixed else tuple(solution.row_dual),
            basis=None if mixed else _basis(solver),
        )

    def _model(self, relaxed: bool) -> highspy.HighsLp:
        model = highspy.HighsLp()
        model.num_col_, model.num_row_ = len(self.costs), len(self.rows)
        model.col_cost_ = np.array(self.costs, np.float64)
        model.col_lower_ = np.array(self.lower, np.float64)
        model.col_upper_ = np.array(self.upper, np.float64)
        model.row_lower_ = np.array([low for low, _, _ in self.rows], np.float64)
        model.row_upper_ = np.array([high for _, high, _ in self.rows], np.float64)
        model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        model.a_matrix_.start_ = np.cumsum([0, *(len(row) for _, _, row in self.rows)]).astype(np.int32)
        model.a_matrix_.index_ = np.array([i for _, _, row in self.rows for i in row], np.int32)
        model.a_matrix_.value_ = np.array([v for _, _, row in self.rows for v in row.values()], np.float64)
        if any(self.integer) and not relaxed:
            kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
            model.integrality_ = [kinds[flag] for flag in self.integer]
        return model


def _basis(solver: Any) -> Basis | None:
    found = solver.getBasis()
    return Basis(tuple(found.col_status), tuple(found.row_status)) if found.valid else None


def _begin(solver: Any, basis: Basis) -> None:
    """Have an LP begin with a basis."""
    given = highspy.HighsBasis()
    given.col_status, given.row_status = list(basis.columns), list(basis.rows)
    given.valid = True
    solver.setBasis(given)


def _until(end: float) -> Callable[..., None]:
    """Return a callback that interrupts the solver once its thread has used processor time up to `end`."""

    def look(kind: Any, message: str, out: Any, into: Any, data: Any) -> None:
        if time.thread_time() > end:
            into.user_interrupt = True

    return look
