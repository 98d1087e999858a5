"""Settings of a training run: when it saves and what it reports."""

from __future__ import annotations

from dataclasses import dataclass

from maskrcnn.errors import Count, Positive


@dataclass(frozen=True)
class Checkpoints:
    """When a run saves its state.

    Args:
        every: steps between two checkpoints (last.pt). A run that is killed loses at most this many steps.
        keep: number of older checkpoints to keep as step_<step>.pt.
    """

    every: Positive = 500
    keep: Count = 1


@dataclass(frozen=True)
class Log:
    """What a run reports.

    Args:
        every: steps between two lines of the log and two points of TensorBoard's curves.
        images: number of validation images to draw at every evaluation.
        histograms: steps between histograms of weights and gradients; 0 writes none.
        profile: number of steps to trace into trace.json, after the first ten; 0 traces none.
        wandb: project of Weights & Biases to report to as well; None uses TensorBoard only.
    """

    every: Positive = 20
    images: Count = 8
    histograms: Count = 0
    profile: Count = 0
    wandb: str | None = None
