"""Settings of a training run that belong to no single part: how often it saves and reports."""

from __future__ import annotations

from dataclasses import dataclass

from maskrcnn.errors import Count, Positive


@dataclass(frozen=True)
class Checkpoints:
    """When a run saves its state.

    Args:
        every: steps between two checkpoints (last.pt). A run that is killed loses at most this many steps.
        keep: how many checkpoints before the last one are kept, as step_<step>.pt.
    """

    every: Positive = 500
    keep: Count = 1


@dataclass(frozen=True)
class Log:
    """What a run reports.

    Args:
        every: steps between two lines of the log and two points of TensorBoard's curves.
        images: validation images that are drawn at every evaluation.
        histograms: steps between histograms of weights and gradients; 0 writes none.
        profile: steps to trace into trace.json, after the first ten; 0 traces none.
        wandb: a project of Weights & Biases that receives the same; None uses TensorBoard alone.
    """

    every: Positive = 20
    images: Count = 8
    histograms: Count = 0
    profile: Count = 0
    wandb: str | None = None
