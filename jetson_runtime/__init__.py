"""The ground floor of Holdfast, and what runs in the car: no torch, nothing that needs a GPU to be imported.

import jetson_runtime

with jetson_runtime.load("bundle") as runtime:
    request = jetson_runtime.Request("What shape is in the image?", image=Path("sign.png"))
    answer = runtime.invoke(request, jetson_runtime.Budget(answer_ms=800))
"""

from jetson_runtime.errors import HoldfastError
from jetson_runtime.generate import Token
from jetson_runtime.ladder import Budget, Depth, Ladder, Schedule
from jetson_runtime.runtime import Answer, Request, Runtime, load

__all__ = [
    "Answer",
    "Budget",
    "Depth",
    "HoldfastError",
    "Ladder",
    "Request",
    "Runtime",
    "Schedule",
    "Token",
    "load",
]
