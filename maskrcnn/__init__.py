"""Mask R-CNN with interchangeable RoI operators. See README.md for the commands, `maskrcnn.models` for the network."""
