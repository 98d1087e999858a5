"""An interactive html page that shows how RoI operators read a box, with mouse, touch and keyboard."""

from maskrcnn.ablation.explorer.channels import ChannelMaps, channel_maps
from maskrcnn.ablation.explorer.page import Start, explorer_page

__all__ = ["ChannelMaps", "Start", "channel_maps", "explorer_page"]
