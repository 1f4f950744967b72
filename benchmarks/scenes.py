"""Measures images per second on one core for each kind of scene, and the memory of drawing thousands of pages.

    python -m benchmarks.scenes                                  # speed of each kind, 100 images each
    python -m benchmarks.scenes --pages 10000                    # peak memory while drawing that many pages
    python -m benchmarks.scenes --sheet sheet.png --width 640    # a contact sheet, one or more rows for each kind

Times are CPU times of one process with one thread, so other load does not count. Drawing (with encoding the PNG) and
checking are timed separately, because each task pays for both. --pages draws the kinds in turn, checks each page and
drops it, as sampling tasks does. It prints the peak of the resident memory at each tenth, which would show a leak.
"""

import argparse
import io
import random
import resource
import statistics
import sys
import time
from collections.abc import Iterator

from PIL import Image

from teacher.scenes.kinds import KINDS, draw, example
from teacher.scenes.legibility import check
from teacher.scenes.scene import DrawnImage, SceneError


def main() -> None:
    arguments = _parser().parse_args()
    if arguments.sheet:
        sheet = _sheet(arguments.kinds, arguments.count or 12, arguments.width, arguments.seed)
        sheet.save(arguments.sheet)
        print(f"{arguments.sheet}: {sheet.width} x {sheet.height} px")
    elif arguments.pages:
        _memory(arguments.kinds, arguments.pages, arguments.seed)
    else:
        _speed(arguments.kinds, arguments.count or 100, arguments.seed)


def _images(kind: str, seed: int) -> Iterator[DrawnImage]:
    """Draws the example scenes of a kind; a scene that cannot be drawn is reported and skipped."""
    number = 0
    while True:
        try:
            yield draw(example(kind, random.Random(f"benchmark/{kind}/{seed}/{number}")))
        except SceneError as error:
            print(f"{kind} {number}: {error}", file=sys.stderr)
        number += 1


def _speed(kinds: list[str], count: int, seed: int) -> None:
    for kind in kinds:
        images = _images(kind, seed)
        next(images)  # loads modules and fonts
        drawing, checking, faults = [], [], 0
        sizes, areas = [], []
        for _ in range(count):
            start = time.process_time()
            image = next(images)
            middle = time.process_time()
            faults += bool(check(image))
            drawing.append(middle - start)
            checking.append(time.process_time() - middle)
            sizes.append(len(image.png) / 1000)
            areas.append(image.width * image.height / 1e6)
        slowest = sorted(drawing)[int(0.95 * count)]
        print(
            f"{kind}: {count / sum(drawing):.1f} drawn per second ({slowest * 1000:.0f} ms at the 95th percentile),"
            f" {count / (sum(drawing) + sum(checking)):.1f} drawn and checked per second; mean"
            f" {statistics.mean(sizes):.0f} kB, {statistics.mean(areas):.2f} megapixels; {faults} failed the checks",
            flush=True,
        )


def _memory(kinds: list[str], pages: int, seed: int) -> None:
    sources = [_images(kind, seed) for kind in kinds]
    start = time.process_time()
    for number in range(1, pages + 1):
        check(next(sources[number % len(sources)]))
        if number % max(1, pages // 10) == 0 or number == 1:
            # ru_maxrss is in kilobytes on Linux.
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
            seconds = time.process_time() - start
            print(f"{number} pages: peak {peak:.0f} MB, {seconds:.0f} s of CPU time", flush=True)


def _sheet(kinds: list[str], count: int, width: int, seed: int) -> Image.Image:
    """A contact sheet: `count` images of each kind, at most `width` pixels wide and high, six to a row."""
    columns = min(6, count)
    thumbs = []
    for kind in kinds:
        images = _images(kind, seed)
        row = [Image.open(io.BytesIO(next(images).png)).convert("RGB") for _ in range(count)]
        thumbs += [row[i : i + columns] for i in range(0, count, columns)]
    for row in thumbs:
        for image in row:
            image.thumbnail((width, width), Image.Resampling.LANCZOS)
    heights = [max(image.height for image in row) + 12 for row in thumbs]
    sheet = Image.new("RGB", (columns * (width + 12), sum(heights)), "#8a8a8a")
    top = 0
    for row, height in zip(thumbs, heights, strict=True):
        for column, image in enumerate(row):
            sheet.paste(image, (column * (width + 12) + 6, top + 6))
        top += height
    return sheet


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument(
        "--count", type=int, help="images of each kind (default: 100 timed, 12 on a sheet)"
    )
    parser.add_argument("--pages", type=int, help="measure the memory of that many pages instead")
    parser.add_argument("--sheet", metavar="FILE", help="write a contact sheet (PNG) instead")
    parser.add_argument(
        "--width", type=int, default=320, help="width of an image on the sheet, in pixels"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes")
    return parser


if __name__ == "__main__":
    main()
