"""What an execution context was told: profile, shapes, addresses, scratch memory. Only what changes is told again."""

from __future__ import annotations

from typing import Any

from bagel_engines.device.arrays import DeviceArray, Stream
from bagel_engines.protocol import EngineFailure

Shape = tuple[int, ...]


class Bindings:
    """A context that stays with one profile: another one would make TensorRT forget the rest."""

    def __init__(self, context: Any, graph: str, profile: int, stream: Stream, log: Any):
        """log: of log.collected, for what TensorRT says of a refusal."""
        self._context, self._graph, self._stream, self._log = context, graph, stream, log
        self._shapes: dict[str, Shape] = {}
        self._addresses: dict[str, int] = {}
        self._results: dict[str, Shape] = {}
        self._scratch = (0, 0)
        if context.active_optimization_profile != profile:
            taken = context.set_optimization_profile_async(profile, stream.handle)
            self._done(taken, f"take profile {profile}")

    def shape(self, name: str, shape: Shape) -> None:
        if self._shapes.get(name) != shape:
            self._done(self._context.set_input_shape(name, shape), f"take {name} of shape {shape}")
            self._shapes[name] = shape
            self._results.clear()

    def place(self, name: str, address: int) -> None:
        if self._addresses.get(name) != address:
            self._done(self._context.set_tensor_address(name, address), f"bind {name}")
            self._addresses[name] = address

    def scratch(self, array: DeviceArray) -> None:
        if self._scratch != (array.address, array.nbytes):
            self._scratch = array.address, array.nbytes
            self._context.set_device_memory(*self._scratch)

    def result(self, name: str) -> Shape:
        """The shape of an output for the inputs' shapes."""
        if name not in self._results:
            shape = tuple(self._context.get_tensor_shape(name))
            if any(size < 0 for size in shape):
                raise EngineFailure(f"tensorrt cannot tell the shape of {name} in graph '{self._graph}'")
            self._results[name] = shape
        return self._results[name]

    def run(self) -> None:
        """Put a run into the stream; it is done when the stream is."""
        self._done(self._context.execute_async_v3(self._stream.handle), "start")

    def capturable(self) -> bool:
        """Whether TensorRT says that its run can be captured. TensorRT 11 is not asked: a capture shows it."""
        asked = getattr(self._context, "is_stream_capturable", None)
        return asked is None or asked(self._stream.handle)

    def _done(self, accepted: bool, what: str) -> None:
        if not accepted:
            raise EngineFailure(f"tensorrt cannot {what} in graph '{self._graph}'. It said: {self._log.last}")
