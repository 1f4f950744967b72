"""Pictures a second on one core for each kind of scene, the memory of thousands of pages, and contact sheets.

    python -m benchmarks.scenes                                  speed of each kind, 100 pictures each
    python -m benchmarks.scenes --pages 10000                    peak memory while drawing that many pages
    python -m benchmarks.scenes --sheet sheet.png --width 640    what they look like, a row or more a kind

Time is the processor's, of one process with one thread, so that other load does not count; drawing (with its PNG file)
and checking are timed apart, since a task pays for both. Pages are drawn of all kinds in turn, checked, and dropped, as
sampling tasks does; the peak is the process's resident memory, told at each tenth, so that a leak would show.
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


def _pictures(kind: str, seed: int) -> Iterator[DrawnImage]:
    number = 0
    while True:
        try:
            yield draw(example(kind, random.Random(f"benchmark/{kind}/{seed}/{number}")))
        except SceneError as error:
            print(f"{kind} {number}: {error}", file=sys.stderr)
        number += 1


def _speed(kinds: list[str], count: int, seed: int) -> None:
    for kind in kinds:
        pictures = _pictures(kind, seed)
        next(pictures)  # imports, fonts
        drawing, checking, faults = [], [], 0
        sizes, areas = [], []
        for _ in range(count):
            start = time.process_time()
            picture = next(pictures)
            drawn = time.process_time()
            faults += bool(check(picture))
            drawing.append(drawn - start)
            checking.append(time.process_time() - drawn)
            sizes.append(len(picture.png) / 1000)
            areas.append(picture.width * picture.height / 1e6)
        slowest = sorted(drawing)[int(0.95 * count)]
        print(
            f"{kind}: {count / sum(drawing):.1f} drawn a second ({slowest * 1000:.0f} ms at the 95th percentile),"
            f" {count / (sum(drawing) + sum(checking)):.1f} drawn and checked; mean"
            f" {statistics.mean(sizes):.0f} kB, {statistics.mean(areas):.2f} megapixels; {faults} faulty",
            flush=True,
        )


def _memory(kinds: list[str], pages: int, seed: int) -> None:
    sources = [_pictures(kind, seed) for kind in kinds]
    start = time.process_time()
    for number in range(1, pages + 1):
        check(next(sources[number % len(sources)]))
        if number % max(1, pages // 10) == 0 or number == 1:
            # Kilobytes on Linux.
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
            seconds = time.process_time() - start
            print(f"{number} pages: peak {peak:.0f} MB, {seconds:.0f} s of one core", flush=True)


def _sheet(kinds: list[str], count: int, width: int, seed: int) -> Image.Image:
    """`count` pictures of each kind, each at most `width` px wide and high, six a row."""
    columns = min(6, count)
    thumbs = []
    for kind in kinds:
        pictures = _pictures(kind, seed)
        row = [Image.open(io.BytesIO(next(pictures).png)).convert("RGB") for _ in range(count)]
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
        "--count", type=int, help="pictures of each kind (100 timed, 12 on a sheet)"
    )
    parser.add_argument("--pages", type=int, help="measure the memory of that many pages instead")
    parser.add_argument("--sheet", metavar="FILE", help="write a contact sheet (PNG) instead")
    parser.add_argument("--width", type=int, default=320, help="of a picture on the sheet, in px")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other scenes")
    return parser


if __name__ == "__main__":
    main()
