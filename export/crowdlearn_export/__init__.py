"""Model -> NeuronGraph -> slice programs (.pte)."""

import logging
import os
import warnings

# ExecuTorch's exporter imports torchao, whose kernels for other machines fail to load, and uses parts of
# torch that announce their end: nothing that a user of ours could act on.
os.environ.setdefault("TORCHAO_FORCE_SKIP_LOADING_SO_FILES", "1")
for name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(name).setLevel(logging.ERROR)
warnings.filterwarnings("ignore", category=FutureWarning, module=r"copyreg|torch\.")
