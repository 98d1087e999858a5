"""The state that changes from step to step: model, optimizer, loss scale and averaged weights."""

from __future__ import annotations

import copy
import random
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from maskrcnn.errors import UserError
from maskrcnn.models.convolution import use_fast_convolutions
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.models.precision import Precision, autocast
from maskrcnn.training.settings import Schedule


class Learner:
    """The state of a training run, without its step.

    Args:
        model: trained in place.
        schedule: learning rate and optimizer.
        device: the model's device.
        precision: precision of the arithmetic; weights stay float32 (float64 for ``fp64``). ``fp16`` scales the loss.
        fast_convolutions: on a CPU, see `use_fast_convolutions`.
    """

    def __init__(
        self,
        model: MaskRCNN,
        schedule: Schedule,
        device: torch.device,
        precision: Precision,
        fast_convolutions: bool = True,
    ) -> None:
        if fast_convolutions and device.type == "cpu":
            use_fast_convolutions(model)
        self.model, self.schedule, self.device, self.precision = model, schedule, device, precision
        self.optimizer = build_optimizer(model, schedule)
        self.scaler = GradScaler(device.type, enabled=precision == "fp16")
        self.ema = None if schedule.ema is None else Ema(model, schedule.ema)
        self._graphs = False

    def compile(self, cuda_graphs: bool = False) -> None:
        """Compile the static parts of the model.

        Args:
            cuda_graphs: on a GPU, also capture CUDA graphs of forward and backward, one per shape. A pass then
                launches a few graphs instead of hundreds of kernels.

        Raises:
            UserError: torch.compile does not work on this machine.
        """
        _compile_static_parts(self.model, "reduce-overhead" if cuda_graphs else None)
        self._graphs = cuda_graphs

    def begin_pass(self) -> None:
        """Allow captured graphs to overwrite the results of the previous pass."""
        if self._graphs:
            torch.compiler.cudagraph_mark_step_begin()

    def evaluating(self) -> AbstractContextManager[Any]:
        """A context without CUDA graphs, because the number of detections differs between images."""
        return torch.compiler.set_stance("force_eager") if self._graphs else nullcontext()

    def autocast(self) -> AbstractContextManager[Any]:
        """A context in which forward passes use the run's precision."""
        return autocast(self.precision, self.device)

    def state(self) -> dict[str, Any]:
        """Everything that an exact resume needs, except step and random state."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.model.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Load a `state`, also one of a learner with another precision."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # empty without loss scaling
            self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.model.load_state_dict(state["ema"])

    @property
    def evaluated_model(self) -> MaskRCNN:
        """The averaged weights if there are any, else the model."""
        return self.model if self.ema is None else self.ema.model


def _compile_static_parts(model: MaskRCNN, mode: str | None) -> None:
    """Compile the parts that do not branch on data: backbone, pyramid, and the networks of the heads."""
    _check_compiler(next(model.parameters()).device)
    parts: list[Any] = [model.backbone, model.pyramid, getattr(model.rpn, "head", None)]
    parts.append(getattr(model.mask_head, "predictor", None))
    parts += [getattr(h, "trunk", None) for h in (model.box_head, model.mask_head, model.keypoint_head)]
    for part in parts:
        if part is not None:
            part.compile(mode=mode)


def _check_compiler(device: torch.device) -> None:
    """Compile a small function, to find a missing compiler, header or Triton before the first step."""
    from torch._dynamo.exc import TorchDynamoException  # lazily, because this import takes seconds

    x = torch.ones(8, device=device)
    try:
        torch.compile(lambda x: x.relu() + 1)(x)
    except TorchDynamoException as error:
        cause = str(getattr(error, "inner_exception", error)).strip().splitlines()
        raise UserError(
            f"compile=true: torch.compile does not work here ({cause[0] if cause else type(error).__name__}); it needs "
            "a C++ compiler (apt install g++, or its path in the variable CXX), Python's headers (python3-dev) and on "
            "a GPU Triton; or leave compile=false"
        ) from error


def random_state() -> dict[str, Any]:
    """The state of all random generators of this process, as plain values and tensors."""
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 (what other people's augmentations may use)
    version, numbers, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "python": [version, list(numbers), gauss],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Load a `random_state`."""
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count() > 0:
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(  # noqa: NPY002
        (kind, keys.numpy().astype(np.uint32), position, has_gauss, cached)
    )
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))


class Ema:
    """Moving average ``average = decay * average + (1 - decay) * weights`` after every step.

    torch's `AveragedModel` is not used: it reads its counter on the host in every step, and its first update replaces
    the average.

    Args:
        model: its weights are copied. Buffers (running statistics) are copied in every step and not averaged.
        decay: weight of the old average.

    Attributes:
        model: the averaged copy, in evaluation mode.
    """

    def __init__(self, model: MaskRCNN, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: MaskRCNN) -> None:
        """Add the weights of ``model`` after a step."""
        averaged: list[Tensor] = list(self.model.parameters())
        torch._foreach_lerp_(averaged, list(model.parameters()), 1 - self.decay)
        torch._foreach_copy_(list(self.model.buffers()), list(model.buffers()))


_STAGES = ("stem", "res2", "res3", "res4", "res5")


def build_optimizer(model: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """Build SGD or AdamW over the trained parameters.

    The ``lr_scale`` of a group is a factor of the schedule's learning rate.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            plain = parameter.dim() <= 1 and not schedule.norm_weight_decay
            decay = 0.0 if plain else schedule.weight_decay
            scale = schedule.layer_decay ** (len(_STAGES) - _depth(name))
            groups.setdefault((decay, scale), []).append(parameter)
    settings = [
        {"params": parameters, "weight_decay": decay, "lr_scale": scale}
        for (decay, scale), parameters in groups.items()
    ]
    if schedule.optimizer == "adamw":
        return torch.optim.AdamW(settings, lr=schedule.scaled_lr, fused=True)
    optimizer = torch.optim.SGD(settings, lr=schedule.scaled_lr, momentum=schedule.momentum, fused=True)
    if schedule.momentum:
        for parameter in (p for parameters in groups.values() for p in parameters):
            # torch would leave them uninitialised if loss scaling skips the first update.
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def _depth(name: str) -> int:
    """The stage of a parameter in the backbone, 0 for the stem. Pyramid and heads come after the last stage."""
    parts = name.split(".")
    if parts[0] != "backbone":
        return len(_STAGES)
    if parts[1] == "stages" and parts[2].isdigit():  # torchvision's, where the first one is the stem
        return min(int(parts[2]), len(_STAGES) - 1)
    return next((depth for depth, stage in enumerate(_STAGES) if stage in parts), len(_STAGES))
