"""Which height and width a picture gets, and which can be drawn at all."""

from __future__ import annotations

from bagel_rt.artefact.manifest import Manifest
from bagel_rt.errors import InputError
from bagel_rt.inputs.segments import Grid
from bagel_rt.options.image_options import ImageOptions
from bagel_rt.remarks import remark

STRETCH = 2  # largest sides with stretch_positions, in sides of the position table


class Sizes:
    """The sizes that a model can draw: multiples of a latent token's pixels, up to the side of its position table."""

    def __init__(self, manifest: Manifest):
        self._stride = manifest.model.latent_stride
        self._most = self._stride * manifest.model.max_latent_size
        self._default = manifest.vae_transform.max_size

    def choose(self, opts: ImageOptions, image_size: tuple[int, int] | None) -> tuple[int, int]:
        """(height, width): as asked for, else the last image's, else the largest square; checked."""
        height, width = image_size or (self._default, self._default)
        return self.check(opts.height or height, opts.width or width, opts.stretch_positions)

    def check_asked(self, opts: ImageOptions) -> None:
        """Refuse what was asked for before any work, and remark on a size that was not trained for."""
        asked = self.asked(opts)
        if asked is not None and max(asked) > self._default:
            remark(
                f"height {asked[0]}, width {asked[1]}: the model was trained up to {self._default} pixels; objects may"
                " repeat or fall apart. first_pass=0.5 draws it small first"
            )

    def asked(self, opts: ImageOptions) -> tuple[int, int] | None:
        """(height, width) that were asked for, checked; a side that was not is taken to be like the other.

        None: neither was. Raises InputError as check does.
        """
        height, width = opts.height or opts.width, opts.width or opts.height
        return None if height is None or width is None else self.check(height, width, opts.stretch_positions)

    def check(self, height: int, width: int, stretch: bool = False) -> tuple[int, int]:
        """(height, width) as given; stretch: up to STRETCH times the position table's sides.

        Raises InputError naming the nearest size that can be drawn.
        """
        stride, most = self._stride, self._most * (STRETCH if stretch else 1)
        near = [min(max(round(side / stride), 1) * stride, most) for side in (height, width)]
        if [height, width] != near:
            raise InputError(
                f"height {height}, width {width} cannot be drawn: both must be multiples of {stride} up to {most};"
                f" the nearest is height {near[0]}, width {near[1]}"
            )
        return height, width

    def grid(self, size: tuple[int, int]) -> Grid:
        """(rows, columns) of latent cells of a picture (height, width)."""
        return size[0] // self._stride, size[1] // self._stride

    def smaller(self, grid: Grid, share: float) -> Grid:
        """A grid whose sides are about the share of another's, of one cell at least."""
        return max(1, round(grid[0] * share)), max(1, round(grid[1] * share))
