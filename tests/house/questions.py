"""Twenty questions of a stranger, each with the file that answers it and a name in it.

Fresh readers who were given the list of files (but this folder's) and docs/glossary.md alone found all 20 at
first try (2026-11-30, one reader the first 19, another the last), after 18 and 17 the day before.
"""

QUESTIONS = {
    "where is a snapshot sealed?": ("device_runtime/crowdlearn_device/security/snapshot.py", "seal"),
    "where does a device decide which weights to share?": (
        "device_runtime/crowdlearn_device/sharing/selection.py",
        "def select_top",
    ),
    "where is a frame checked before use?": (
        "device_runtime/crowdlearn_device/protocol/frames.py",
        "def decode_frame",
    ),
    "where is the order of samples drawn?": (
        "device_runtime/crowdlearn_device/protocol/schedule.py",
        "def pass_order",
    ),
    "where does a piece keep sums that no stage has taken yet?": (
        "device_runtime/crowdlearn_device/piece/inbox.py",
        "class ",
    ),
    "where is a program run on a device?": (
        "device_runtime/crowdlearn_device/program/executor.py",
        "class ExecuTorchExecutor",
    ),
    "where does a device serve the host?": (
        "device_runtime/crowdlearn_device/transport/serve.py",
        "def serve_device",
    ),
    "where is a lifelong identity made?": (
        "device_runtime/crowdlearn_device/security/identity.py",
        "class Identity",
    ),
    "where is a network cut into layers of neurons?": (
        "export/crowdlearn_export/tracing/trace.py",
        "def neuron_graph",
    ),
    "where is max pooling lowered?": (
        "export/crowdlearn_export/lowering/rules/pooling.py",
        "def max_pool2d",
    ),
    "where are programs compared with autograd?": (
        "export/crowdlearn_export/program/parity.py",
        "def check_parity",
    ),
    "where is the memory of a program planned?": (
        "export/crowdlearn_export/compiler/memory_planning.py",
        "class InPlacePlanning",
    ),
    "where are the budgets of a device class?": (
        "host/crowdlearn_host/planner/problem/fleet.py",
        "class DeviceClass",
    ),
    "where does the planner explain that nothing fits?": (
        "host/crowdlearn_host/planner/infeasibility.py",
        "def explain",
    ),
    "where is a lost device's turn decided?": (
        "host/crowdlearn_host/coordinator/group/decisions/next_step.py",
        "def resume",
    ),
    "where are relayed bytes counted?": (
        "host/crowdlearn_host/coordinator/hub/traffic_ledger.py",
        "class TrafficLedger",
    ),
    "where is the average of shared weights?": (
        "host/crowdlearn_host/methods/slicenet/window.py",
        "def average",
    ),
    "where are the keys of a run's TOML file?": (
        "host/crowdlearn_host/spec/run_spec.py",
        "class RunSpec",
    ),
    "where does a virtual phone answer adb?": (
        "host/crowdlearn_host/emulator/daemon/adbd.py",
        "class ",
    ),
    "where does the host unmask a secure sum?": (
        "host/crowdlearn_host/privacy/aggregation/aggregator.py",
        "def unmask",
    ),
}
"""The question, the path from the root of the repository, and a name in that file."""
