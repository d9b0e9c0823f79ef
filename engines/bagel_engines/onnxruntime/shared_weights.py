"""One copy of the weights on a device for all ONNX Runtime sessions that read the same bytes of the same file.

und_step and gen_step share the understanding expert's weights; by default each session would load its own copy.

A session accepts an initializer from its caller (SessionOptions.add_initializer). By onnxruntime's source (1.31.1,
session_state_utils.cc; issue 29009) it reads the value in place if that lies on the device the session has planned for
it; otherwise it loads a copy of its own and only its log says so. On CUDA this was not executed here. So `refusal`
makes a probe first: a session of y = x + w with w lent, whose value is changed after the session was made; the session
reads in place if y follows. A lent value must not own its memory, so it is made by binding an address. Weights
quantised in blocks that a graph widens (int8, int4) are not lent: sessions fuse them into MatMulNBits and rearrange
them. A graph made for CUDA has them in that arrangement (quantised_products.py), and there they are lent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from bagel_engines.device.arrays import DeviceArray, Memory, on_device
from bagel_engines.onnx_files import mapped, readable
from bagel_engines.onnxruntime.made_weights import Source

PROBE = Path(__file__).parent.parent / "graphs" / "probe.onnx"  # y = x + w, w = 0
ADDED = "w"
MANY = 256 << 20  # bytes from which bringing weights takes its time
FLOAT = 1  # ONNX's number for float32
UNREADABLE = "each graph has its own copy of its weights (one copy needs: pip install onnx)"
NOT_IN_PLACE = "each graph has its own copy of its weights: onnxruntime does not read them where they are"


class SharedWeights:
    """Weights on the device by where they come from; each is freed when the last session that uses it is."""

    def __init__(self, ort: Any, memory: Memory, place: tuple[str, int], providers: list):
        self._ort, self._memory, self._place = ort, memory, place
        self._providers = providers
        self._held: WeakValueDictionary[tuple, DeviceArray] = WeakValueDictionary()  # by Source.key
        self._binder: Any = None  # some session: its io_binding is the way to make a value over a given address

    def refusal(self) -> str | None:
        """Why weights are not shared here; None where they are."""
        if not readable():
            return UNREADABLE
        self._binder = self._ort.InferenceSession(str(PROBE), self._quiet(), providers=self._providers)
        return None if self._read_in_place() else NOT_IN_PLACE

    def lend(
        self, options: Any, weights: Mapping[str, Source], on_bytes: Callable[[int, int], object] | None = None
    ) -> tuple[dict[str, DeviceArray], list[Any]]:
        """Give a session's options weights by name, brought to the device where they are not there yet.

        on_bytes: called with how many of their bytes are there, and how many there will be; of many bytes only.
        Returns the weights, which must be held as long as the session is used, and what must live until it is made.
        """
        files: dict[Path, np.ndarray] = {}
        lent, values = {}, []
        missing = {source.key: source.nbytes for source in weights.values() if source.key not in self._held}
        done, total = 0, sum(missing.values())
        for name, source in weights.items():
            array = self._held.get(source.key)
            if array is None:
                array = self._held[source.key] = self._brought(source, files)
                done += missing[source.key]
                if on_bytes is not None and total >= MANY:
                    on_bytes(done, total)
            lent[name] = array
            values.append(self._value(array, source.type, source.shape))
            options.add_initializer(name, values[-1])
        return lent, values

    @property
    def bytes_held(self) -> int:
        return sum(array.nbytes for array in self._held.values())

    def _brought(self, source: Source, files: dict[Path, np.ndarray]) -> DeviceArray:
        for place in source.places:
            if place.file not in files:
                files[place.file] = mapped(place.file)
        given = source.bytes_of(files)
        array = DeviceArray(self._memory, given.shape, given.dtype, reused=False)
        if given.size:
            self._memory.upload(array.address, given)
        return array

    def _value(self, array: DeviceArray, onnx_type: int, shape: tuple[int, ...]) -> Any:
        binding = self._binder.io_binding()
        binding.bind_output("y", *self._place, onnx_type, list(shape), array.address)
        return binding.get_outputs()[0]

    def _read_in_place(self) -> bool:
        one, five = (np.array([n], np.float32) for n in (1, 5))
        given, x = on_device(self._memory, one), on_device(self._memory, one)
        value, options = self._value(given, FLOAT, (1,)), self._quiet()
        options.add_initializer(ADDED, value)
        session = self._ort.InferenceSession(str(PROBE), options, providers=self._providers)
        self._memory.upload(given.address, five)
        binding, out = session.io_binding(), DeviceArray(self._memory, (1,), np.dtype(np.float32))
        binding.bind_input("x", *self._place, FLOAT, [1], x.address)
        binding.bind_output("y", *self._place, FLOAT, [1], out.address)
        session.run_with_iobinding(binding)
        return float(out.numpy()[0]) == 6.0

    def _quiet(self) -> Any:
        options = self._ort.SessionOptions()
        options.log_severity_level = 3
        return options
