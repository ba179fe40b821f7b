"""Things in the car and on the table."""

from __future__ import annotations

import math

from refusal_suite.pictures.canvas import SIZE, Canvas

__all__ = ["bottle", "child_seat", "dashboard", "key", "map_view", "number_plate", "phone", "shapes", "steering_wheel"]

# Five by seven dots for each sign of the number plate, so that no font is needed.
LETTERS = {
    "H": "10001 10001 10001 11111 10001 10001 10001",
    "F": "11111 10000 10000 11110 10000 10000 10000",
    "0": "01110 10001 10011 10101 11001 10001 01110",
    "1": "00100 01100 00100 00100 00100 00100 01110",
    "7": "11111 00001 00010 00100 01000 01000 01000",
    "4": "00010 00110 01010 10010 11111 00010 00010",
    "-": "00000 00000 00000 01110 00000 00000 00000",
}


def _gauge(canvas: Canvas, x: float, y: float, radius: float, needle: float) -> None:
    canvas.disc(x, y, radius, "#3a4149")
    canvas.disc(x, y, radius - 4, "#11151a")
    for tick in range(11):
        angle = math.radians(140 + tick * 26)
        inner, outer = radius - 18, radius - 9
        canvas.line(
            [(x + inner * math.cos(angle), y + inner * math.sin(angle)),
             (x + outer * math.cos(angle), y + outer * math.sin(angle))],
            "#e8ecef", 2.5,
        )  # fmt: skip
    angle = math.radians(needle)
    canvas.line([(x, y), (x + (radius - 22) * math.cos(angle), y + (radius - 22) * math.sin(angle))], "#ff5a3c", 4)
    canvas.disc(x, y, 8, "#c9ced3")


def dashboard(canvas: Canvas) -> None:
    """A dashboard with two gauges; between them an amber warning triangle is lit."""
    canvas.gradient(0, 96, "#a8cfe6", "#e9f1f3")
    canvas.polygon([(0, 96), (336, 96), (336, 70), (168, 58), (0, 70)], "#7d9a5c")
    canvas.gradient(84, SIZE, "#31363d", "#1b1e23")
    canvas.ellipse(168, 206, 162, 112, "#0c0f13")
    _gauge(canvas, 92, 206, 66, 205)
    _gauge(canvas, 244, 206, 66, 290)
    canvas.polygon([(168, 140), (192, 182), (144, 182)], "#f5a623")
    canvas.box(165.5, 152, 170.5, 169, "#11151a", 2)
    canvas.disc(168, 175, 3, "#11151a")
    canvas.box(150, 222, 186, 240, "#20303c", 3)
    canvas.box(155, 228, 181, 234, "#76d7c4", 1)


def steering_wheel(canvas: Canvas) -> None:
    """A steering wheel before the windscreen."""
    canvas.gradient(0, 120, "#9accea", "#e6f1f5")
    canvas.polygon([(0, 120), (336, 120), (336, 100), (0, 100)], "#86ac64")
    canvas.polygon([(120, 120), (216, 120), (184, 100), (152, 100)], "#6a7077")
    canvas.gradient(116, SIZE, "#3c424a", "#22262b")
    canvas.line([(62, 206), (274, 206)], "#15181c", 26)
    canvas.line([(168, 210), (168, 306)], "#15181c", 28)
    canvas.arc(168, 206, 108, 0, 360, "#101215", 24)
    canvas.arc(168, 206, 108, 200, 340, "#2c3137", 6)
    canvas.disc(168, 208, 42, "#262a30")
    canvas.disc(168, 208, 18, "#8e959d")
    canvas.disc(168, 208, 13, "#262a30")


def map_view(canvas: Canvas) -> None:
    """A town map with a river, a park, a blue route and a red pin."""
    canvas.box(0, 0, SIZE, SIZE, "#efeadd")
    canvas.box(196, 16, 318, 112, "#c5dfa9", 14)
    canvas.line([(-10, 250), (70, 232), (130, 262), (210, 246), (350, 300)], "#a9d2ea", 34)
    for points in (
        [(0, 60), (180, 74), (336, 50)], [(0, 150), (336, 134)], [(84, 0), (96, 336)], [(182, 0), (176, 336)],
        [(270, 112), (262, 336)], [(0, 316), (336, 206)],
    ):  # fmt: skip
        canvas.line(points, "#cfc7b4", 13)
        canvas.line(points, "#ffffff", 10)
    canvas.line([(93, 312), (88, 146), (178, 141), (180, 74), (262, 62)], "#2f74d0", 7)
    canvas.disc(93, 312, 9, "#ffffff")
    canvas.disc(93, 312, 6, "#2f74d0")
    canvas.polygon([(262, 62), (242, 26), (282, 26)], "#d63a2f")
    canvas.disc(262, 22, 21, "#d63a2f")
    canvas.disc(262, 22, 8, "#ffffff")


def phone(canvas: Canvas) -> None:
    """A phone on a table, with rows of coloured app tiles."""
    canvas.gradient(0, SIZE, "#d9b98c", "#c49a67")
    for y in (58, 144, 232, 300):
        canvas.box(0, y, SIZE, y + 2, "#b98f5e")
    canvas.box(112, 26, 232, 314, "#8d6b43", 24)
    canvas.box(104, 18, 226, 306, "#17191d", 24)
    canvas.box(113, 34, 217, 290, "#2f5f92", 10)
    canvas.box(147, 23, 183, 28, "#3a3f46", 2)
    colours = ["#f2b134", "#ed553b", "#3caea3", "#f6f7f9", "#7bc950", "#9b6bd3", "#f2b134", "#4aa8ff", "#ed553b"]
    for index, colour in enumerate(colours):
        x, y = 122 + index % 3 * 32, 52 + index // 3 * 36
        canvas.box(x, y, x + 24, y + 24, colour, 6)
    canvas.box(122, 252, 208, 276, "#517fae", 9)


def bottle(canvas: Canvas) -> None:
    """A green bottle with a blank label, and a glass."""
    canvas.gradient(0, 236, "#f0e8dc", "#dccfbc")
    canvas.gradient(236, SIZE, "#9a6f48", "#7c5636")
    canvas.ellipse(140, 288, 52, 9, "#64452b")
    canvas.ellipse(240, 290, 32, 6, "#64452b")
    canvas.box(100, 132, 180, 288, "#2f6b3f", 14)
    canvas.polygon([(100, 146), (180, 146), (157, 100), (123, 100)], "#2f6b3f")
    canvas.box(124, 44, 156, 110, "#2f6b3f", 4)
    canvas.box(121, 34, 159, 54, "#b98e4b", 4)
    canvas.box(100, 176, 180, 240, "#f3ead2")
    canvas.box(112, 192, 168, 196, "#b9a878")
    canvas.box(112, 208, 152, 212, "#b9a878")
    canvas.box(110, 140, 117, 172, "#6aa678", 3)
    canvas.polygon([(212, 206), (268, 206), (261, 288), (219, 288)], "#cfdfe4")
    canvas.polygon([(214, 236), (266, 236), (261, 286), (219, 286)], "#a8cbd9")


def child_seat(canvas: Canvas) -> None:
    """A blue child seat with a belt on the rear bench of a car."""
    canvas.gradient(0, 110, "#b8d6e6", "#dfe9ec")
    canvas.box(0, 96, SIZE, SIZE, "#6d665e")
    canvas.box(0, 236, SIZE, SIZE, "#847b71", 18)
    canvas.box(14, 62, 78, 112, "#5b554e", 14)
    canvas.box(258, 62, 322, 112, "#5b554e", 14)
    canvas.box(92, 40, 244, 262, "#27496d", 46)
    canvas.box(112, 60, 224, 150, "#4f86b8", 32)
    canvas.box(118, 150, 218, 246, "#4f86b8", 14)
    canvas.box(84, 214, 252, 296, "#1f3a57", 24)
    canvas.box(104, 224, 232, 274, "#5f97c8", 18)
    canvas.line([(142, 112), (166, 206)], "#1c1f24", 11)
    canvas.line([(194, 112), (170, 206)], "#1c1f24", 11)
    canvas.line([(168, 208), (168, 246)], "#1c1f24", 12)
    canvas.box(152, 194, 184, 222, "#2b2f36", 7)
    canvas.box(160, 201, 176, 214, "#d8342b", 4)


def number_plate(canvas: Canvas) -> None:
    """A made-up number plate on the rear of a grey car."""
    canvas.gradient(0, SIZE, "#8d979f", "#5d666e")
    canvas.box(0, 70, SIZE, 76, "#474f56")
    for left in (-30, 286):
        canvas.box(left, 96, left + 80, 150, "#a61f1f", 14)
        canvas.box(left + 8, 104, left + 72, 124, "#e0504a", 8)
    canvas.box(0, 268, SIZE, 276, "#444b52")
    canvas.box(28, 160, 308, 236, "#2b2f33", 9)
    canvas.box(33, 165, 303, 231, "#fbfbf5", 6)
    canvas.box(33, 165, 58, 231, "#1f4ea3", 6)
    for position, sign in enumerate("HF-0174"):
        for row, dots in enumerate(LETTERS[sign].split()):
            for column, dot in enumerate(dots):
                if dot == "1":
                    x, y = 66 + position * 33.5 + column * 5.4, 176 + row * 6.4
                    canvas.box(x, y, x + 5.5, y + 6.5, "#17191c")
    for x in (170, 200):
        canvas.disc(x, 146, 3, "#f6f1d2")


def shapes(canvas: Canvas) -> None:
    """A circle, a square, a triangle and a bar in plain colours."""
    canvas.box(0, 0, SIZE, SIZE, "#f5f3ee")
    canvas.disc(98, 100, 58, "#d8402f")
    canvas.box(188, 44, 296, 152, "#2f6fd0")
    canvas.polygon([(98, 188), (160, 294), (36, 294)], "#f2b705")
    canvas.box(186, 222, 300, 262, "#3d9a50", 20)


def key(canvas: Canvas) -> None:
    """A car key with its remote on a wooden table."""
    canvas.gradient(0, SIZE, "#caa273", "#b48753")
    for y in (70, 156, 242):
        canvas.box(0, y, SIZE, y + 2, "#a67b49")
    canvas.line([(196, 176), (302, 176)], "#93703f", 16)
    canvas.line([(196, 170), (302, 170)], "#b8bec5", 14)
    for x, depth in ((232, 9), (250, 14), (268, 8), (286, 12)):
        canvas.polygon([(x, 176), (x + 10, 176), (x + 10, 176 + depth), (x, 176 + depth)], "#b8bec5")
    canvas.box(58, 118, 206, 230, "#93703f", 34)
    canvas.box(54, 112, 202, 224, "#1d2025", 34)
    canvas.arc(44, 168, 26, 0, 360, "#c3c8cd", 6)
    for y, colour in ((146, "#5a626b"), (190, "#5a626b")):
        canvas.disc(128, y, 15, colour)
    canvas.disc(168, 168, 12, "#c0392b")
    canvas.line([(122, 146), (134, 146)], "#e9edf0", 3)
    canvas.arc(128, 190, 6, 0, 360, "#e9edf0", 3)
