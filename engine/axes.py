"""Axes of figures: readable numbers on logarithmic ones, and a word in an empty panel."""


def name_decades(axis, low, high):
    """Write plain numbers on a logarithmic axis, some between its powers of ten if it is short."""
    from matplotlib.ticker import LogLocator, NullFormatter

    if high < 100 * low:
        axis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    # matplotlib's own are TeX, on an axis shorter than a decade.
    axis.set_minor_formatter(NullFormatter())


def name_doublings(axes, low, high, first=()):
    """Ticks of a logarithmic x-axis: powers of two from low to high > 0, without any the ends.

    first: ticks before them.
    """
    powers = [2**k for k in range(40) if low <= 2**k <= high]
    ticks = [*first, *(powers if len(powers) > 1 else sorted({low, high}))]
    axes.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
    axes.set_xticks([], minor=True)


def name_steps(axes, steps):
    """Whole numbers on an x-axis of steps."""
    axes.xaxis.get_major_locator().set_params(integer=True)
    if len(set(steps)) == 1:
        axes.set_xticks(steps[:1])


def say_empty(axes, words):
    """Say in an empty panel why it is empty."""
    axes.set(xticks=[], yticks=[])
    axes.text(0.5, 0.5, words, ha="center", va="center", transform=axes.transAxes, color="0.5")
