"""Colours of figures, which people who see few colours can tell apart."""

BLUE, ORANGE, VERMILLION, GREEN, GREY = "#0072B2", "#E69F00", "#D55E00", "#009E73", "#5b6675"
DARK, PALE = "#3d4754", "#c9d0d8"
# Paul Tol's "muted" scheme and black: ten that colour-blind people can tell apart, the more so with a shape each.
GROUP_COLOURS = (
    "#332288",
    "#CC6677",
    "#117733",
    "#88CCEE",
    "#999933",
    "#AA4499",
    "#44AA99",
    "#882255",
    "#DDCC77",
    "#000000",
)
