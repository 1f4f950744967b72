"""The places of the values of a line chart. They depend on the lines, so they are chosen after the layout."""

from teacher.scenes.chart.figure import Chart
from teacher.scenes.chart.measure import overlap


def place_values(chart: Chart, far: int) -> None:
    """Places each value of a line next to its point, where nothing else is; sets `crowded` if there is no place.

    far: how many line heights above and below the point are tried.
    """
    transform = chart.axes.transData.transform
    height = chart.written[0][0].get_window_extent().height
    frame = chart.axes.get_window_extent()
    points = {xy: transform(xy) for _, xy in chart.written}
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in points.values()]
    # The highest point of a category first: its value goes above, and lower ones take the remaining places.
    for text, xy in sorted(chart.written, key=lambda pair: (pair[1][0], -pair[1][1])):
        x, y = points[xy]
        extent = text.get_window_extent()
        near, side = height / 2 + 7, extent.width / 2 + 8
        steps = [(0, near), (0, -near), (side, 0), (-side, 0), (side, near), (-side, near), (side, -near),
                 (-side, -near)]  # fmt: skip
        steps += [(0, sign * (near + n * (height + 2))) for n in range(1, far) for sign in (1, -1)]
        for dx, dy in steps:
            box = (x + dx - extent.width / 2 - 1, y + dy - height / 2 - 1,
                   x + dx + extent.width / 2 + 1, y + dy + height / 2 + 1)  # fmt: skip
            inside = (
                frame.y0 < box[1] and box[3] < frame.y1 and frame.x0 < box[0] and box[2] < frame.x1
            )
            if inside and not any(overlap(box, other) for other in taken):
                break
        else:
            chart.crowded = True
            return
        text.set_position((dx, dy))  # an offset in pixels
        taken.append(box)
