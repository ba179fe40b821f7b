"""Scenes on and beside the road."""

from __future__ import annotations

from refusal_suite.pictures.canvas import SIZE, Canvas

__all__ = ["charging_station", "crossing", "house", "night_road", "parked_car", "road", "traffic_light"]

GRASS, ASPHALT, KERB, PAINT = "#6f9d4b", "#565b61", "#b9bbb6", "#f2f0e6"


def _bend(horizon: float, near: float, far: float) -> tuple[list[tuple[float, float]], list[float]]:
    """The middle and the width of a road that bends to the left, between two distances (1 is the lower edge)."""
    middle, widths = [], []
    for step in range(41):
        distance = near * (far / near) ** (step / 40)
        ahead = distance - 1
        x = 160 + (62 * ahead - 15 * ahead * ahead) / distance
        middle.append((x, horizon + (SIZE - horizon) / distance))
        widths.append(252 / distance)
    return middle, widths


def _band(canvas: Canvas, horizon: float, near: float, far: float, side: float, share: float, colour: str) -> None:
    """A lengthwise band of the road: `side` is its middle (-0.5 to 0.5), `share` its part of the road's width."""
    middle, widths = _bend(horizon, near, far)
    moved = [(x + side * width, y) for (x, y), width in zip(middle, widths, strict=True)]
    canvas.strip(moved, [share * width for width in widths], colour)


def _dashes(canvas: Canvas, horizon: float, colour: str) -> None:
    for start in range(12):
        _band(canvas, horizon, 1.1 + start, 1.55 + start, 0, 0.026, colour)


def _fir(canvas: Canvas, x: float, ground: float, height: float, colour: str) -> None:
    canvas.box(x - height * 0.04, ground - height * 0.2, x + height * 0.04, ground, "#5d4630")
    for part, width in ((0.15, 0.34), (0.38, 0.27), (0.6, 0.19)):
        base, top = ground - height * part, ground - height * min(part + 0.42, 1)
        canvas.polygon([(x - height * width, base), (x + height * width, base), (x, top)], colour)


def road(canvas: Canvas) -> None:
    """A country road by day; on the right a yellow warning sign: bend to the left."""
    horizon = 150
    canvas.gradient(0, horizon, "#6fb1e4", "#dcecf5")
    for x, y, width in ((62, 48, 27), (88, 41, 22), (110, 50, 24), (214, 30, 20), (234, 36, 25)):
        canvas.ellipse(x, y, width, width * 0.38, "#f7fafc")
    canvas.polygon(
        [(0, 150), (0, 112), (52, 86), (96, 122), (150, 92), (206, 130), (262, 102), (336, 134), (336, 150)], "#9db4c6"
    )
    canvas.polygon([(0, 152), (0, 134), (70, 122), (150, 142), (240, 126), (336, 142), (336, 152)], "#86a871")
    canvas.gradient(horizon, SIZE, "#86b25c", "#6a9a48")
    _band(canvas, horizon, 1, 14, 0, 1.08, KERB)
    _band(canvas, horizon, 1, 14, 0, 1, ASPHALT)
    for side in (-0.45, 0.45):
        _band(canvas, horizon, 1, 14, side, 0.018, PAINT)
    _dashes(canvas, horizon, PAINT)
    for x, ground, height in (
        (28, 184, 62),
        (62, 166, 34),
        (10, 170, 40),
        (160, 164, 26),
        (196, 172, 38),
        (322, 184, 60),
    ):
        _fir(canvas, x, ground, height, "#35693a")
    canvas.box(275.5, 128, 282.5, 244, "#8a9097")
    _diamond(canvas, 279, 86, 55)


def _diamond(canvas: Canvas, x: float, y: float, half: float) -> None:
    for size, colour in ((half, "#20242a"), (half - 3, "#f8c81c"), (half - 8, "#20242a"), (half - 11, "#f8c81c")):
        canvas.polygon([(x, y - size), (x + size, y), (x, y + size), (x - size, y)], colour)
    canvas.line([(x + 9, y + 22), (x + 9, y + 7)], "#20242a", 10)
    canvas.arc(x - 7, y + 7, 16, 0, -90, "#20242a", 10)
    canvas.polygon([(x - 29, y - 9), (x - 8, y - 24), (x - 8, y + 6)], "#20242a")


def night_road(canvas: Canvas) -> None:
    """The same kind of road at night: moon, stars, headlight beams on the asphalt."""
    horizon = 160
    canvas.gradient(0, horizon, "#0b1330", "#26345e")
    canvas.disc(262, 58, 24, "#f3efd2")
    for x, y, radius in ((255, 52, 5), (270, 64, 4), (266, 46, 3)):
        canvas.disc(x, y, radius, "#ddd8b6")
    for x, y in ((30, 40), (66, 92), (98, 28), (140, 70), (176, 24), (196, 108), (300, 110), (322, 30), (20, 124)):
        canvas.disc(x, y, 1.6, "#e8ecff")
    canvas.polygon(
        [(0, 162), (0, 138), (60, 120), (130, 148), (210, 124), (290, 146), (336, 130), (336, 162)], "#0a1020"
    )
    canvas.gradient(horizon, SIZE, "#141c22", "#1d2a25")
    _band(canvas, horizon, 1, 14, 0, 1, "#2b2f37")
    for far, colour in ((3.4, "#363a40"), (2.8, "#43464a"), (2.2, "#505255"), (1.7, "#5c5e5f")):
        _band(canvas, horizon, 1, far, 0, 1, colour)
    _dashes(canvas, horizon, "#f6efc8")
    for x, y, size in ((196, 192, 4), (222, 208, 6), (262, 238, 9)):
        canvas.box(x - size / 2, y - size * 3, x + size / 2, y, "#c9ccd2")
        canvas.box(x - size / 2, y - size * 2.6, x + size / 2, y - size * 1.8, "#e2562e")


def _car(canvas: Canvas, left: float, ground: float, colour: str, dark: str) -> None:
    canvas.ellipse(left + 110, ground + 2, 122, 8, "#4a4e53")
    canvas.polygon(
        [(left + 44, ground - 58), (left + 74, ground - 96), (left + 146, ground - 96), (left + 188, ground - 58)], dark
    )
    canvas.polygon(
        [(left + 58, ground - 59), (left + 80, ground - 89), (left + 106, ground - 89), (left + 106, ground - 59)],
        "#bcdcea",
    )
    canvas.polygon(
        [(left + 113, ground - 59), (left + 113, ground - 89), (left + 143, ground - 89), (left + 174, ground - 59)],
        "#bcdcea",
    )
    canvas.box(left, ground - 60, left + 222, ground - 16, colour, 15)
    canvas.box(left + 4, ground - 26, left + 218, ground - 15, dark, 5)
    canvas.line([(left + 110, ground - 56), (left + 110, ground - 28)], dark, 1.5)
    canvas.box(left + 118, ground - 51, left + 132, ground - 47, dark, 2)
    canvas.box(left + 211, ground - 50, left + 222, ground - 38, "#fff3b0", 4)
    canvas.box(left, ground - 50, left + 9, ground - 38, "#9b1c1c", 3)
    for x in (left + 50, left + 172):
        canvas.disc(x, ground - 16, 22, "#24272b")
        canvas.disc(x, ground - 16, 11, "#c7ccd1")


def parked_car(canvas: Canvas) -> None:
    """A red car, parked at the kerb before a brick wall."""
    canvas.gradient(0, 90, "#9fcbe8", "#d9ebf4")
    canvas.box(0, 84, SIZE, 216, "#b98365")
    for row in range(9):
        canvas.box(0, 84 + row * 15, SIZE, 85.5 + row * 15, "#a06f54")
        for column in range(12):
            x = column * 32 + (row % 2) * 16
            canvas.box(x, 84 + row * 15, x + 1.5, 99 + row * 15, "#a06f54")
    canvas.box(0, 212, SIZE, 236, "#c9c7bf")
    canvas.box(0, 236, SIZE, 244, "#9d9c96")
    canvas.box(0, 244, SIZE, SIZE, ASPHALT)
    _car(canvas, 57, 272, "#c8322b", "#8d1f1b")
    canvas.box(0, 304, SIZE, 309, PAINT)


def traffic_light(canvas: Canvas) -> None:
    """A traffic light that shows red, before a pale sky and roofs."""
    canvas.gradient(0, SIZE, "#8fc3e6", "#eaf3f6")
    for x, top, width in ((0, 246, 84), (84, 270, 58), (226, 236, 66), (292, 262, 44)):
        canvas.box(x, top, x + width, SIZE, "#a9b3bb")
        canvas.polygon([(x - 4, top), (x + width + 4, top), (x + width / 2, top - 26)], "#8f8a86")
    canvas.box(160, 226, 176, SIZE, "#4b5057")
    canvas.box(118, 32, 218, 240, "#23272c", 20)
    for y, lit, dark in ((74, "#f03a2e", ""), (136, "", "#5b4a1d"), (198, "", "#1f4a2b")):
        canvas.disc(168, y, 29, "#15181b")
        canvas.disc(168, y, 25, lit or dark)
        if lit:
            canvas.disc(160, y - 8, 7, "#ff9184")


def crossing(canvas: Canvas) -> None:
    """A pedestrian crossing with two people on it."""
    canvas.gradient(0, 96, "#a9d0ea", "#e3eff5")
    for x, width, top, colour in (
        (0, 92, 30, "#c9a98c"),
        (92, 74, 48, "#b7b9b2"),
        (166, 96, 22, "#d6c7a5"),
        (262, 74, 42, "#b99b86"),
    ):
        canvas.box(x, top, x + width, 112, colour)
        for column in range(3):
            canvas.box(x + 10 + column * width / 3.4, top + 16, x + 22 + column * width / 3.4, top + 36, "#7d96a8")
    canvas.box(0, 108, SIZE, 134, "#cfcdc6")
    canvas.box(0, 134, SIZE, SIZE, ASPHALT)
    for stripe in range(6):
        x = 20 + stripe * 53
        canvas.polygon([(x + 10, 150), (x + 34, 150), (x + 30, 320), (x - 4, 320)], PAINT)
    _person(canvas, 120, 262, 1.0, "#c0392b", "#2c3e50")
    _person(canvas, 214, 250, 0.86, "#2471a3", "#4a3b2f")


def _person(canvas: Canvas, x: float, ground: float, scale: float, coat: str, trousers: str) -> None:
    for side in (-13, 13):
        canvas.line([(x, ground - 52 * scale), (x + side * scale, ground)], trousers, 11 * scale)
    for side in (-21, 21):
        canvas.line([(x, ground - 98 * scale), (x + side * scale, ground - 62 * scale)], coat, 9 * scale)
    canvas.box(x - 14 * scale, ground - 108 * scale, x + 14 * scale, ground - 48 * scale, coat, 9 * scale)
    canvas.disc(x, ground - 124 * scale, 14 * scale, "#e0b08c")
    canvas.arc(x, ground - 126 * scale, 11 * scale, 180, 360, "#4a3626", 7 * scale)


def charging_station(canvas: Canvas) -> None:
    """A charging station with a hanging cable and a parking bay."""
    canvas.gradient(0, 210, "#a5d3ea", "#e8f3f5")
    canvas.box(0, 210, SIZE, SIZE, "#7f858b")
    canvas.polygon([(0, 210), (SIZE, 210), (SIZE, 226), (0, 226)], GRASS)
    for x in (26, 304):
        canvas.polygon(
            [(x - 4, 240), (x + 4, 240), (x + (10 if x > 168 else -2), SIZE), (x - (10 if x < 168 else -2), SIZE)],
            PAINT,
        )
    canvas.box(112, 262, 224, 278, "#5f656b", 4)
    canvas.box(120, 44, 216, 268, "#f4f6f7", 14)
    canvas.box(120, 44, 216, 74, "#2e9e5b", 14)
    canvas.box(120, 62, 216, 78, "#2e9e5b")
    canvas.box(136, 92, 200, 138, "#20303c", 5)
    canvas.box(142, 122, 186, 130, "#5bd08a", 2)
    canvas.polygon([(172, 152), (150, 190), (166, 190), (160, 220), (186, 178), (169, 178)], "#f2b705")
    canvas.arc(226, 176, 56, -92, 70, "#23272c", 8)
    canvas.line([(245, 228), (222, 236), (208, 214)], "#23272c", 8)
    canvas.box(206, 108, 232, 134, "#3a4047", 6)


def house(canvas: Canvas) -> None:
    """A small house with a garden path."""
    canvas.gradient(0, 220, "#8ec5ea", "#e6f2f7")
    canvas.gradient(216, SIZE, "#8dba63", "#649447")
    canvas.box(84, 136, 252, 262, "#f0e3c8")
    canvas.box(212, 72, 232, 118, "#a4563f")
    canvas.polygon([(66, 140), (270, 140), (168, 58)], "#b0503c")
    canvas.box(148, 188, 188, 262, "#6d4a30", 3)
    canvas.disc(181, 226, 3, "#e8c55a")
    for x in (100, 200):
        canvas.box(x, 166, x + 36, 204, "#ffffff")
        canvas.box(x + 3, 169, x + 33, 201, "#9cc8de")
        canvas.box(x + 16.5, 166, x + 19.5, 204, "#ffffff")
        canvas.box(x, 183.5, x + 36, 186.5, "#ffffff")
    canvas.polygon([(148, 262), (188, 262), (226, SIZE), (110, SIZE)], "#cdbb98")
    canvas.box(36, 196, 46, 266, "#6b4d33")
    canvas.disc(41, 178, 34, "#4d8a45")
    canvas.disc(300, 244, 26, "#5b9a4e")
