"""An html page to try what RoI operators read of a box, with the mouse, touch or the keyboard."""

from maskrcnn.ablation.explorer.channels import ChannelMaps, channel_maps
from maskrcnn.ablation.explorer.page import Start, explorer_page

__all__ = ["ChannelMaps", "Start", "channel_maps", "explorer_page"]
