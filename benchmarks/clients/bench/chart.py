"""`suite.py chart`: records as one SVG. Called by `suite.py`; the only user of matplotlib.

Above, seconds of all systems in m1 to m3; a mark on our bar, in the colour of a peer,
says how long we may take beside that peer. Below, the operators' numbers as a share of
what is owed.
"""

import io
import re
from dataclasses import dataclass

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.patches import Patch  # noqa: E402
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: E402

from bench import owed, records, stats  # noqa: E402
from bench.cases import OPERATORS, PEERS, USER_CODE  # noqa: E402

# Viewers in dark mode replace the keys by the values; all other colours suit both.
PAPER, INK, FAINT = "#fefefe", "#1f2329", "#d8dce1"
DARK = {PAPER: "#12161c", INK: "#e4e8ee", FAINT: "#39414c"}
OURS = ["#2f6fdb", "#8a63d2", "#1f9bb5", "#c2549d"]
COLOURS = {"floor": "#707884", "daft": "#bd681c", "ray": "#23845a"}
NAMES = {"floor": "bare processes", "daft": "Daft", "ray": "Ray Data"}
TITLES = {
    "m1": "m1: arithmetic on\nnumpy arrays,\n6 M rows",
    "m2": "m2: a class, built\nin 1 s, 400,000 texts",
    "m3": "m3: one Python call\na row, 1 M rows",
    ("small", "4,000 blocks of one row"): "small: 4,000 blocks\nof one row",
    ("workers", "one worker"): "workers: two\nbeside one",
    ("async", "10,000 calls of 20 ms"): "async: 10,000 calls\nof 20 ms",
    ("async", "the same with one of 5 s"): "async: the same\nwith one of 5 s",
    ("clean", "map with raise"): "clean: map, dead_letter\nbeside raise",
    ("clean", "map_batches with raise"): "clean: map_batches,\ndead_letter beside raise",
    ("dispatch", "blocks of one row a second to a query's actor"): "dispatch: blocks\nto a query's actor",
    ("dispatch", "blocks of one row a second to a named actor"): "dispatch: blocks\nto a named actor",
    ("slowest", "linear of 16 actors"): "slowest: 16 actors,\nof linear",
}
# In inches, and the room of a group and between groups in bars.
WIDTH_IN, BAR_IN, LEAST, GAP = 9.5, 0.24, 1.4, 0.8


@dataclass
class Bar:
    """One bar: its length and spread, its marks as (place, colour), and what stands after it."""

    value: float
    spread: tuple | None
    colour: str
    text: str
    marks: list
    inside: bool


def draw(given, path):
    """Writes the chart of `given` records.

    Raises:
        records.Unreadable: there is nothing in them to draw.
    """
    panels = [(user_code(given), seconds_axis), (operators(given), share_axis)]
    panels = [(groups, style) for groups, style in panels if groups]
    if not panels:
        raise records.Unreadable("these records have no number to draw")
    # Same input, same file.
    plt.rcParams.update({"svg.hashsalt": "mobula", "svg.fonttype": "none", "font.size": 9})
    plt.rcParams["font.family"] = ["DejaVu Sans", "sans-serif"]
    plt.rcParams.update({name: INK for name in ("text.color", "axes.labelcolor", "xtick.color", "ytick.color")})
    heights = [BAR_IN * lines(groups) + 0.55 for groups, _ in panels]
    head, foot = 0.85 + 0.18 * (len(given) - 1), 0.3 + 0.17 * len(caption(given))
    total = head + foot + sum(heights)
    figure = plt.figure(figsize=(WIDTH_IN, total), facecolor=PAPER)
    top = total - head
    for (groups, style), height in zip(panels, heights):
        axes = figure.add_axes((0.2, (top - height + 0.5) / total, 0.68, (height - 0.5) / total), facecolor=PAPER)
        bars(axes, groups)
        style(axes, groups)
        top -= height
    figure.text(0.02, 1 - 0.28 / total, "User code on Mobula and its peers", size=13, weight="bold", color=INK)
    legend(figure, given, 1 - 0.4 / total)
    for number, line in enumerate(reversed(caption(given))):
        figure.text(0.02, (0.1 + 0.17 * number) / total, line, size=7.5, color=INK)
    text = io.StringIO()
    figure.savefig(text, format="svg", facecolor=PAPER, metadata={"Date": None})
    plt.close(figure)
    path.write_text(with_dark_mode(text.getvalue()))


def user_code(given):
    """Per case its title and bars: ours of each record, then the peers' of the last that has them."""
    groups = []
    for case in USER_CODE:
        group, peers = [], {}
        for number, record in enumerate(given):
            result = record["cases"].get(case)
            seconds = [s for m in (result or {"measures": []})["measures"] for s in m["ours"]]
            if not seconds:
                continue
            found = owed.numbers(case, result)
            marks = [(n.bound * n.theirs_s, COLOURS[n.name]) for n in found if n.sign]
            group.append(seconds_bar(seconds, OURS[number % len(OURS)], marks))
            peers.update({m["name"]: m["theirs"] for m in result["measures"] if m["theirs"]})
        group += [seconds_bar(peers[peer], COLOURS[peer], []) for peer in PEERS if peer in peers]
        if group:
            groups.append((TITLES[case], group))
    return groups


def seconds_bar(seconds, colour, marks):
    middle = stats.median(seconds)
    return Bar(middle, stats.spread(seconds), colour, f"{middle:.2f} s", marks, True)


def operators(given):
    """Per number that is owed, its share of the bound: 1 or less is what is owed."""
    groups = {}
    for number, record in enumerate(given):
        for case in OPERATORS:
            result = record["cases"].get(case)
            for one in owed.numbers(case, result) if result else []:
                if one.kind == "count" or one.sign is None or (case, one.name) not in TITLES:
                    continue
                low, high = one.spread
                if one.sign == "≤":
                    share, spread = one.value / one.bound, (low / one.bound, high / one.bound)
                else:
                    share, spread = one.bound / one.value, (one.bound / high, one.bound / low)
                unit = {"seconds": " s", "level": ""}.get(one.kind, " ×")
                text = f"{one.value:,.0f}" if one.value >= 1000 else f"{one.value:.3f}"
                text = f"{text}{unit}, owed {one.sign} {one.bound:g}"
                bar = Bar(share, spread, OURS[number % len(OURS)], text, [], False)
                groups.setdefault(TITLES[case, one.name], []).append(bar)
    return list(groups.items())


def lines(groups):
    """Height of groups, in bars."""
    return sum(max(len(group), LEAST) + GAP for _, group in groups)


def bars(axes, groups):
    """Draws the groups from above; the name of each stands left of its middle."""
    place, places = 0.0, []
    for _, group in groups:
        place += (max(len(group), LEAST) - len(group)) / 2
        first = place
        for bar in group:
            axes.barh(place, bar.value, 0.78, color=bar.colour, zorder=2)
            if bar.spread and bar.spread[0] < bar.spread[1]:
                axes.plot(bar.spread, (place, place), color=INK, linewidth=1, zorder=3)
            for at, colour in bar.marks:
                # A rim keeps a mark visible on a bar and beside it.
                for rim, width, layer in ((PAPER, 5, 4), (colour, 2.5, 5)):
                    line = {"color": rim, "linewidth": width, "zorder": layer, "solid_capstyle": "butt"}
                    axes.plot((at, at), (place - 0.5, place + 0.5), **line)
            label(axes, bar, place)
            place += 1
        places.append((first + place - 1) / 2)
        place += (max(len(group), LEAST) - len(group)) / 2 + GAP
    axes.set_ylim(place - GAP - 0.3, -0.7)
    axes.set_yticks(places, [name for name, _ in groups], size=8.5)
    axes.tick_params(length=0)
    axes.grid(axis="x", color=FAINT, linewidth=0.8, zorder=0)
    axes.spines[:].set_visible(False)


def label(axes, bar, place):
    """Inside at its foot, where no mark of the other end is in the way, or after it."""
    if bar.inside:
        at, where = (0, place), {"xycoords": axes.get_yaxis_transform(), "color": "#fff", "weight": "bold"}
    else:
        at = (max(bar.value, *(bar.spread or (0,))), place)
        where = {"color": INK, "bbox": {"facecolor": PAPER, "edgecolor": "none", "pad": 1.5}}
    axes.annotate(bar.text, at, (6, 0), textcoords="offset points", va="center", size=8, zorder=6, **where)


def ends(groups):
    """The smallest and the largest value to show."""
    every = [bar for _, group in groups for bar in group]
    values = [v for bar in every for v in (bar.value, *(bar.spread or ()), *(at for at, _ in bar.marks))]
    return min(values), max(values)


def seconds_axis(axes, groups):
    low, high = ends(groups)
    axes.set_xscale("log")
    axes.set_xlim(low / 3, high * 1.2)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 100 else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} s"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()
    axes.set_xlabel("seconds, median, logarithmic; thin lines from the shortest run to the longest", size=8)


def share_axis(axes, groups):
    # Room for the text after the longest bar.
    axes.set_xlim(0, max(1.3, ends(groups)[1] * 1.3))
    axes.axvline(1, color=INK, linewidth=1.2, linestyle=(0, (4, 2)), zorder=4)
    axes.set_xlabel("share of what is owed: a bar that ends left of 1 meets it", size=8)


def legend(figure, given, top):
    shown = {m["name"] for r in given for case in USER_CODE if case in r["cases"] for m in r["cases"][case]["measures"]}
    handles = [
        Patch(color=OURS[number % len(OURS)], label=f"Mobula {record['commit']}") for number, record in enumerate(given)
    ]
    handles += [Patch(color=COLOURS[peer], label=NAMES[peer]) for peer in PEERS if peer in shown]
    if shown:
        mark = Line2D([], [], color=INK, marker="|", markersize=9, markeredgewidth=2.5, linestyle="none")
        mark.set_label("the most we may take beside the peer of that colour")
        handles.append(mark)
    place = {"loc": "upper left", "bbox_to_anchor": (0.01, top), "ncols": 5, "frameon": False}
    figure.legend(handles=handles, **place, fontsize=8, handlelength=1.1, columnspacing=1.4, handletextpad=0.5)


def caption(given):
    """Commit, machine, peers and counts of each record, to stand below."""
    found = []
    for record in given:
        machine, binary = record["machine"], record["binary"]
        profile = "" if binary["profile"] == "unknown" else f" ({binary['profile']})"
        found.append(
            f"{record['commit']}{profile}, {record['at'][:16].replace('T', ' ')} UTC,"
            f" pairs: {record['settings']['pairs']};"
            f" {machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB,"
            f" Linux {machine['kernel']}, load {machine['load_average'][0]:.1f} at the start"
        )
        more = [f"{NAMES[peer]} {versions[peer]}" for peer, versions in record["peers"].items() if peer in versions]
        for case in OPERATORS:
            counts = [n for n in owed.numbers(case, record["cases"].get(case, {"measures": []})) if n.kind == "count"]
            exact = [n for n in counts if n.sign]
            if exact:
                more.append(f"{case}: {sum(n.met for n in exact)} of {len(exact)} counts exact")
        failures = [f"{case} on {NAMES.get(s, s)}" for case, r in record["cases"].items() for s in r["errors"]]
        if failures:
            more.append(f"failed: {', '.join(failures)}")
        if record["state"] != "complete":
            more.append(f"the run is {record['state']}")
        if more:
            found.append("    " + "; ".join(more))
    return found


def with_dark_mode(svg):
    """Readers that know style sheets follow their theme; all others show it light."""
    rules = "".join(
        f'[style*="{kind}: {light}"]{{{kind}:{dark}!important}}'
        for light, dark in DARK.items()
        for kind in ("fill", "stroke")
    )
    style = f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>"
    return re.sub(r"(<svg[^>]*>)", lambda found: found[1] + style, svg, count=1)
