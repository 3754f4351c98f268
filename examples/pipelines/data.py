"""Makes what the pipelines read: `python data.py DIRECTORY [--scale 1.0]`."""

import argparse
import datetime
import pathlib
import random

import pyarrow as pa
import pyarrow.parquet as pq

PATHS = ["/", "/cart", "/search?q=tea", "/item/17", "/login", "/static/app.js"]
TEXTS = [
    "The ship left the harbour early in the morning, and nobody saw it again.",
    "Das Schiff verließ den Hafen am frühen Morgen, und niemand sah es wieder.",
    "Le navire a quitté le port tôt le matin, et personne ne l'a revu.",
    "El barco salió del puerto por la mañana temprano y nadie volvió a verlo.",
    "La nave lasciò il porto di prima mattina e nessuno la rivide più.",
    "Statek wypłynął z portu wczesnym rankiem i nikt go już nie zobaczył.",
    "Корабль покинул гавань рано утром, и больше его никто не видел.",
    "船は早朝に港を出て、二度と姿を見せなかった。",
]


def logs(directory: pathlib.Path, lines: int, files: int = 8) -> None:
    draw, start = random.Random(1), datetime.datetime(2026, 3, 1)
    directory.mkdir(parents=True)
    for number in range(files):
        with open(directory / f"{number}.log", "w") as file:
            for line in range(lines // files):
                at = start + datetime.timedelta(seconds=3 * line)
                status = draw.choices([200, 304, 404, 500, 503], [80, 10, 6, 3, 1])[0]
                size = "-" if status == 304 else draw.randrange(200, 90_000)
                request = f"GET {draw.choice(PATHS)} HTTP/1.1"
                file.write(f'10.0.{number}.{draw.randrange(256)} - - [{at:%d/%b/%Y:%H:%M:%S} +0000] "{request}" {status} {size}\n')
            file.write("a line that is no request\n")


def orders(directory: pathlib.Path, rows: int) -> None:
    draw, customers = random.Random(2), max(rows // 20, 1)
    directory.mkdir(parents=True)
    with open(directory / "customers.csv", "w") as file:
        file.write("customer,country\n")
        file.writelines(f"{number},{draw.choice('DE FR IT PL SE'.split())}\n" for number in range(customers))
    with open(directory / "orders.csv", "w") as file:
        file.write("order,customer,price,pieces\n")
        file.writelines(
            f"{number},{draw.randrange(customers)},{draw.randrange(100, 9_999) / 100},{draw.randrange(1, 9)}\n" for number in range(rows)
        )


def texts(directory: pathlib.Path, rows: int, files: int = 4) -> None:
    draw = random.Random(3)
    directory.mkdir(parents=True)
    for number in range(files):
        ids = range(number, rows, files)
        found = [" ".join(draw.choices(TEXTS[one % len(TEXTS)].split(" "), k=12)) for one in ids]
        pq.write_table(pa.table({"id": list(ids), "text": found}), directory / f"{number}.parquet")


def images(directory: pathlib.Path, count: int) -> None:
    """Gradients and shapes with some noise, as JPEG."""
    try:
        import numpy as np
        import PIL.Image
        import PIL.ImageDraw
    except ImportError as error:
        print(f"no images are made, for {error}: pip install numpy pillow")
        return
    draw = np.random.default_rng(4)
    directory.mkdir(parents=True)
    for number in range(count):
        width, height = draw.integers(200, 400, 2)
        slope = np.linspace(0, 255, width)[None, :, None] * draw.random(3) + draw.integers(0, 64, (height, width, 3))
        image = PIL.Image.fromarray(slope.clip(0, 255).astype(np.uint8))
        box = sorted(draw.integers(0, 200, 2))
        PIL.ImageDraw.Draw(image).ellipse([*box, *(end + 20 for end in box)], fill=tuple(map(int, draw.integers(0, 256, 3))))
        image.save(directory / f"{number:05}.jpg", quality=90)


def make(directory: pathlib.Path, scale: float = 1.0) -> None:
    logs(directory / "logs", int(400_000 * scale))
    orders(directory / "orders", int(1_000_000 * scale))
    texts(directory / "texts", int(20_000 * scale))
    images(directory / "images", int(2_000 * scale))


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("directory", type=pathlib.Path)
    arguments.add_argument("--scale", type=float, default=1.0)
    given = arguments.parse_args()
    make(given.directory, given.scale)
