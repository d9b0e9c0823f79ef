"""Random numbers of the turns of a loop: seeds counted up, so that each turn can be made again alone, or one stream."""

from __future__ import annotations

from typing import Protocol

from bagel_rt.generation.reader import Reading, skip_encoding
from bagel_rt.sampling.torch_noise import TorchNoise


class TurnSeeds(Protocol):
    def seed(self, turn: int) -> int:
        """The seed that is reported for a turn, counted from 0."""
        ...

    def of_images(self) -> TorchNoise:
        """What images are encoded with."""
        ...

    def of_text(self, turn: int) -> TorchNoise: ...

    def of_picture(self, turn: int, reading: Reading, sampled: bool) -> TorchNoise:
        """What a picture begins with. sampled: images of the reading were encoded with noise."""
        ...


class CountedSeeds:
    """Turn n has the seed `first` + n, and images are encoded with `first`'s noise in their order: what interleave
    gives for the same items with that seed and vae_seed=first."""

    def __init__(self, first: int):
        self._first, self._images = first, TorchNoise(first)

    def seed(self, turn: int) -> int:
        return self._first + turn

    def of_images(self) -> TorchNoise:
        return self._images

    def of_text(self, turn: int) -> TorchNoise:
        return TorchNoise(self.seed(turn))

    def of_picture(self, turn: int, reading: Reading, sampled: bool) -> TorchNoise:
        noise = TorchNoise(self.seed(turn))
        if sampled:
            skip_encoding(noise, reading)
        return noise


class OneStream:
    """All from one stream, in the order of the turns, as in a session."""

    def __init__(self, seed: int, noise: TorchNoise):
        self._seed, self._noise = seed, noise

    def seed(self, turn: int) -> int:
        return self._seed

    def of_images(self) -> TorchNoise:
        return self._noise

    def of_text(self, turn: int) -> TorchNoise:
        return self._noise

    def of_picture(self, turn: int, reading: Reading, sampled: bool) -> TorchNoise:
        return self._noise
