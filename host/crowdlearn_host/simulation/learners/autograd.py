"""SGD of any network, as torch.optim.SGD defines it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_export.graph.freezing import resting_modules, to_training
from crowdlearn_export.losses.registry import make_loss
from torch import Tensor, nn

from crowdlearn_host.methods.index_space import FlatEntry

from .on_shares import put_on_shares
from .rounding import round_sums
from .sparse_inputs import Indices
from .workload import Pass, Workload


class ByAutograd:
    """A network whose floats lie in one vector, in the order of sharing.flat."""

    def __init__(self, model: nn.Module, layout: Sequence[FlatEntry], workload: Workload) -> None:
        self._model, self._workload = model, workload
        wanted = workload.config.training.loss
        self._loss = make_loss(wanted.kind, **wanted.options)
        self._noise = torch.Generator()
        config = workload.config
        fraction = config.privacy.masked_fraction
        round_sums(model, config.training.wire, workload.crossings, self._noise, fraction)
        put_on_shares(model, workload.on_shares)
        self._resting = resting_modules(model)
        self.vector = np.empty(layout[-1].stop, np.float32)
        own = dict(model.named_parameters())
        trained = [entry for entry in layout if entry.name in own and own[entry.name].requires_grad]
        self._parameters = [own[entry.name] for entry in trained]
        self._trained = trained
        for entry in layout:
            view = self._view(self.vector, entry)
            if entry.name in own:
                own[entry.name].data = view
            else:
                owner, _, name = entry.name.rpartition(".")
                model.get_submodule(owner)._buffers[name] = view

    def entered(self, flat: Floats) -> Floats:
        """A vector in the order of sharing.flat as one like `vector`: itself. It is float32 [floats]."""
        return flat

    def left(self, own: Floats) -> Floats:
        """The inverse of `entered`, as a copy. It is float32 [floats]."""
        return own.copy()

    def train(self, passes: Sequence[Pass], rate: float, momentum: Floats, accumulated: Floats) -> float:
        """SGD through all `passes`, of `vector` in place; the loss summed over samples.

        `momentum` moves along, and |gradient| is added to `accumulated`; each is empty if there is none.
        Vectors are float32 [floats].
        """
        to_training(self._model, self._resting)
        self._noise.manual_seed(_noise_seed(self._workload.config.seed, passes[0]))
        velocities, sums = self._parts(momentum), self._parts(accumulated)
        return sum(self._pass(each, rate, velocities, sums) for each in passes)

    def classify(self, flat: Floats, tested: range) -> Indices:
        """The classes of these test samples, by running statistics; `vector` becomes `flat`.

        They are int64 [n].
        """
        self._model.eval()
        self.vector[:] = flat
        with torch.no_grad():
            scores = self._model(self._workload.samples_of(self._workload.test.inputs[tested]))
        classes: Indices = scores.argmax(1).numpy()
        return classes

    def loss(self, flat: Floats, tested: range) -> float:
        """The loss summed over these test samples, by running statistics; `vector` becomes `flat`.

        `flat` is float32 [floats].
        """
        self._model.eval()
        self.vector[:] = flat
        test = self._workload.test
        with torch.no_grad():
            scores = self._model(self._workload.samples_of(test.inputs[tested]))
            return float(self._loss.reference(scores, torch.from_numpy(test.labels[tested])))

    def _view(self, vector: Floats, entry: FlatEntry) -> Tensor:
        return torch.from_numpy(vector[entry.start : entry.stop]).view(entry.shape)

    def _parts(self, vector: Floats) -> list[Tensor]:
        """Return what a vector like `vector` has of the trained parameters; nothing where it is empty."""
        return [self._view(vector, entry) for entry in self._trained] if len(vector) else []

    def _pass(self, each: Pass, rate: float, velocities: list[Tensor], sums: list[Tensor]) -> float:
        """With staleness the model lags one update behind the newest weights."""
        workload, training = self._workload, self._workload.config.training
        parameters = [parameter.data for parameter in self._parameters]
        newest = [parameter.clone() for parameter in parameters] if training.staleness else parameters
        rows, batches = workload.order(each)
        at = workload.devices[each.device][rows]
        inputs, labels = workload.samples_of(workload.inputs[at]), torch.from_numpy(workload.labels[at])
        loss_sum = 0.0
        for batch in batches:
            loss, gradients = self._gradients(workload.parts(batch), inputs, labels)
            loss_sum += loss
            steps = gradients
            if training.staleness:
                torch._foreach_copy_(parameters, newest)
            if training.weight_decay:
                steps = list(torch._foreach_add(steps, newest, alpha=training.weight_decay))
            if velocities:
                torch._foreach_mul_(velocities, training.momentum)
                torch._foreach_add_(velocities, steps)
                steps = velocities
            torch._foreach_add_(newest, steps, alpha=-rate)
            if sums:
                torch._foreach_abs_(gradients)
                torch._foreach_add_(sums, gradients)
        if training.staleness:
            torch._foreach_copy_(parameters, newest)
        return loss_sum

    def _gradients(
        self, parts: Sequence[slice], inputs: Tensor, labels: Tensor
    ) -> tuple[float, list[Tensor]]:
        """The loss of a mini-batch, summed over its samples, and the gradients of its mean, part by part."""
        rows = parts[-1].stop - parts[0].start
        summed, gradients = 0.0, list[Tensor]()
        for part in parts:
            loss = self._loss.reference(self._model(inputs[part]), labels[part])
            summed += loss.item()
            each = torch.autograd.grad(loss / rows, self._parameters)
            gradients = list(torch._foreach_add(gradients, each)) if gradients else list(each)
        return summed, gradients


def _noise_seed(seed: int, first: Pass) -> int:
    """A seed of its own for each task, so that its rounding does not depend on who ran what before."""
    return int(np.random.SeedSequence((seed, first.epoch, first.device)).generate_state(1)[0])
