"""Plans as pictures."""

import itertools
import xml.etree.ElementTree as ElementTree

import pytest

SVG = "{http://www.w3.org/2000/svg}"


def boxes(picture):
    """Names of operators, what each says in whole, and where it lies."""
    for group in ElementTree.fromstring(picture).iter(f"{SVG}g"):
        rect = group.find(f"{SVG}rect")
        left, top, width, height = (float(rect.get(key)) for key in ("x", "y", "width", "height"))
        yield group.findtext(f"{SVG}text"), group.findtext(f"{SVG}title"), (left, top, left + width, top + height)


def apart(one, other):
    return one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


@pytest.mark.parametrize("analyze", [False, True])
def test_each_operator_has_a_place(con, analyze):
    left, right = con.range(50).filter(expr="id < 40 AND id <> 7"), con.range(60).rename_columns({"id": "key"})
    joined = left.join(right, "inner", on="id", right_on="key").map(lambda row: {"n": row["id"]})
    # What runs it says its metrics, which differ each time.
    text, picture = joined.explain(analyze=analyze), joined.explain(analyze=analyze, format="svg")
    found = list(boxes(picture))
    operators = [line.strip("│ ") for line in text.splitlines() if "Exec" in line and not line.strip().startswith("┌")]
    assert len(found) == len(operators) > 5
    names = [name for name, _, _ in found]
    assert {"MapExec", "HashJoinExec", "FilterExec"} <= set(names)
    assert any("< 40 AND " in whole and "!= 7" in whole for name, whole, _ in found if name == "FilterExec")
    assert all(apart(one, other) for (_, _, one), (_, _, other) in itertools.combinations(found, 2))
    # One line less than boxes: all hang together.
    root = ElementTree.fromstring(picture)
    assert len(list(root.iter(f"{SVG}line"))) == len(found) - 1
    width, height = float(root.get("width")), float(root.get("height"))
    assert all(place[0] >= 0 and place[2] <= width and place[3] <= height for _, _, place in found)
    assert picture._repr_svg_() == picture
    assert ("rows" in picture) == analyze


def test_no_other_format(con):
    with pytest.raises(ValueError, match='"text" and "svg"'):
        con.range(1).explain(format="png")
