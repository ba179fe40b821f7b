"""The pictures of the first prompt set: plain scenes, harmless by themselves, the same at every run.

python -m refusal_suite.pictures DIRECTORY
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from refusal_suite.pictures import objects, outdoors
from refusal_suite.pictures.canvas import SIZE, Canvas

__all__ = ["SCENES", "SIZE", "draw", "draw_all"]

SCENES: dict[str, Callable[[Canvas], None]] = {
    "bottle": objects.bottle,
    "charging_station": outdoors.charging_station,
    "child_seat": objects.child_seat,
    "crossing": outdoors.crossing,
    "dashboard": objects.dashboard,
    "house": outdoors.house,
    "key": objects.key,
    "map": objects.map_view,
    "night_road": outdoors.night_road,
    "number_plate": objects.number_plate,
    "parked_car": outdoors.parked_car,
    "phone": objects.phone,
    "road": outdoors.road,
    "shapes": objects.shapes,
    "steering_wheel": objects.steering_wheel,
    "traffic_light": outdoors.traffic_light,
}


def draw(name: str) -> Image.Image:
    """The scene `name` as an RGB picture of `SIZE` × `SIZE` pixels."""
    canvas = Canvas()
    SCENES[name](canvas)
    return canvas.finished()


def draw_all(directory: Path) -> list[Path]:
    """Write every scene as `NAME.png` into `directory`; returns the paths."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"{name}.png" for name in SCENES]
    for path in paths:
        draw(path.stem).save(path, optimize=True)
    return paths
