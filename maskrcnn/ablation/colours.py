"""One colour for each RoI operator, in every plot and page of the project."""

# Distinct for readers with red-green colour blindness; legible on white and on near-black backgrounds.
OPERATOR_COLOURS = {
    "align": "#0f8a5f",
    "align_legacy": "#5fb98f",
    "ps_align": "#0b5fa5",
    "warp": "#e08214",
    "warp_mnc": "#f2b36b",
    "pool": "#c2304a",
    "ps_pool": "#8e44ad",
    "ps_warp": "#8c510a",
}
