"""The same sum by Flower's SecAgg+, run by the Python of Flower's own environment: prints one JSON object.

Flower's workflow (the host) and its client stages run unmodified, with every node in this process. Arguments:
groups, weights, dropped.
"""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module
from types import SimpleNamespace
from typing import Any


def main() -> None:
    """Sum one vector of each node, and print what that took."""
    import numpy as np
    from flwr.app import ConfigRecord
    from flwr.common import (
        Code,
        FitIns,
        FitRes,
        Status,
        ndarrays_to_parameters,
        parameters_to_ndarrays,
    )
    from flwr.common.secure_aggregation.secaggplus_constants import (
        RECORD_KEY_CONFIGS,
        Key,
        Stage,
    )
    from flwr.common.serde import recorddict_to_proto
    from flwr.compat.common import recorddict_compat as compat
    from flwr.server.workflow.constant import (
        MAIN_CONFIGS_RECORD,
        MAIN_PARAMS_RECORD,
    )
    from flwr.server.workflow.constant import Key as WorkflowKey
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
    client = import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")
    host = import_module("flwr.server.workflow.secure_aggregation.secaggplus_workflow")

    groups, weights, dropped = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    values = np.random.default_rng(0).normal(size=weights).astype(np.float32)
    clock = time.process_time
    nodes = list(range(1, groups + 1))
    gone = set(nodes[: int(dropped * groups)])
    states = {n: client.SecAggPlusState() for n in nodes}
    spent, sent = dict.fromkeys(nodes, 0.0), dict.fromkeys(nodes, 0.0)
    in_clients = [0.0]
    released: list[Any] = []

    def answer(message: Any) -> Any:
        node = message.metadata.dst_node_id
        configs = ConfigRecord(dict(message.content.config_records[RECORD_KEY_CONFIGS]))
        stage, state = configs.pop(Key.STAGE), states[node]
        if stage == Stage.COLLECT_MASKED_VECTORS and node in gone:
            return None
        vector = (
            ndarrays_to_parameters([np.roll(values, node)]) if stage == Stage.COLLECT_MASKED_VECTORS else None
        )
        began = clock()
        if stage == Stage.SETUP:
            state.nid = node
            found = client._setup(state, configs)
        elif stage == Stage.SHARE_KEYS:
            found = client._share_keys(state, configs)
        elif vector is not None:
            found = client._collect_masked_vectors(state, configs, 1, vector)
        else:
            found = client._unmask(state, configs)
        spent[node] += clock() - began
        content = type(message.content)()
        if vector is not None:
            nothing = ndarrays_to_parameters([])
            fitted = FitRes(Status(Code.OK, ""), nothing, 1, {})
            content = compat.fitres_to_recorddict(fitted, False)
        content.config_records[RECORD_KEY_CONFIGS] = ConfigRecord(found, False)
        sent[node] += recorddict_to_proto(content).ByteSize()
        reply = SimpleNamespace(src_node_id=node)
        return SimpleNamespace(content=content, metadata=reply, has_error=lambda: False)

    class Grid:
        def send_and_receive(self, messages: list[Any], *, timeout: float | None = None) -> list[Any]:
            began = clock()
            answers = [each for each in map(answer, messages) if each is not None]
            in_clients[0] += clock() - began
            return answers

    empty = ndarrays_to_parameters([np.zeros(0, np.float32)])
    proxies = [SimpleNamespace(node_id=n) for n in nodes]

    def aggregate(_: int, results: Any, __: Any) -> tuple[None, dict[str, float]]:
        released.append(parameters_to_ndarrays(results[0][1].parameters)[0])
        return None, {}

    context = SimpleNamespace(
        state=SimpleNamespace(
            config_records={MAIN_CONFIGS_RECORD: {WorkflowKey.CURRENT_ROUND: 1}},
            array_records={MAIN_PARAMS_RECORD: compat.parameters_to_arrayrecord(empty, True)},
        ),
        strategy=SimpleNamespace(
            configure_fit=lambda *_: [(proxy, FitIns(empty, {})) for proxy in proxies],
            aggregate_fit=aggregate,
        ),
        client_manager=SimpleNamespace(num_available=lambda: groups),
    )
    # One more than half of the others unmask, as with ours; a weight of 1 of 1 each.
    workflow = host.SecAggPlusWorkflow(1.0, (groups - 1) // 2 + 1, max_weight=1.0)
    state = host.WorkflowState()
    began = clock()
    for step in (
        workflow.setup_stage,
        workflow.share_keys_stage,
        workflow.collect_masked_vectors_stage,
        workflow.unmask_stage,
    ):
        if not step(Grid(), context, state):
            raise SystemExit("Flower's workflow halted")
    on_host = clock() - began - in_clients[0]
    left = [n for n in nodes if n not in gone]
    mean = np.mean([np.roll(values, n) for n in left], axis=0, dtype=np.float64)
    print(
        json.dumps(
            {
                "upload_bytes": float(np.mean([sent[n] for n in left])),
                "device_seconds": float(np.median([spent[n] for n in left])),
                "host_seconds": on_host,
                "deviation": float(np.abs(released[0] - mean).max()),
            }
        )
    )


if __name__ == "__main__":
    main()
