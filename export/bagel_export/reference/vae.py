"""FLUX-shaped image autoencoder: module names are the keys of ae.safetensors."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bagel_rt.artefact.contract import NORM_EPSILON, NORM_GROUPS

CHANNEL_MULTIPLIERS = (1, 2, 4, 4)
SCALE, SHIFT = 0.3611, 0.1159
DOWNSAMPLE = 8


class Norm(nn.GroupNorm):
    """GroupNorm of 32 groups. Given mean and rate (channels,), it uses these instead of computing the groups' own mean
    and 1 / deviation."""

    def __init__(self, channels: int):
        super().__init__(NORM_GROUPS, channels, eps=NORM_EPSILON)

    def forward(self, x: Tensor, mean: Tensor | None = None, rate: Tensor | None = None) -> Tensor:
        if mean is None or rate is None:
            return super().forward(x)
        scale = self.weight * rate
        shift = self.bias - mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


class ResnetBlock(nn.Module):
    def __init__(self, size_in: int, size_out: int):
        super().__init__()
        self.norm1 = Norm(size_in)
        self.conv1 = nn.Conv2d(size_in, size_out, 3, padding=1)
        self.norm2 = Norm(size_out)
        self.conv2 = nn.Conv2d(size_out, size_out, 3, padding=1)
        if size_in != size_out:
            self.nin_shortcut = nn.Conv2d(size_in, size_out, 1)
        self.changes_width = size_in != size_out

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return (self.nin_shortcut(x) if self.changes_width else x) + h


class AttnBlock(nn.Module):
    """Self-attention over all places of the picture with one head."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = Norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (p(h).flatten(2).transpose(1, 2)[:, None] for p in (self.q, self.k, self.v))  # (batch, 1, places, c)
        out = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(out)


class Downsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Middle(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels)
        self.attn_1 = AttnBlock(channels)
        self.block_2 = ResnetBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Level(nn.Module):
    """Residual blocks of one resolution and, but for the last one, the change to the next: `downsample`, `upsample`."""

    def __init__(self, widths: list[int], change: str | None, module: type[Downsample] | type[Upsample]):
        super().__init__()
        self.block = nn.ModuleList(ResnetBlock(a, b) for a, b in pairwise(widths))
        self.change = change
        if change is not None:
            self.add_module(change, module(widths[-1]))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return x if self.change is None else self.get_submodule(self.change)(x)


class Encoder(nn.Module):
    """pixels (n, 3, H, W) in -1..1 -> moments (n, 32, H/8, W/8): mean, then log-variance."""

    def __init__(self, base: int, latent_channels: int):
        super().__init__()
        widths = [base * m for m in CHANNEL_MULTIPLIERS]
        self.conv_in = nn.Conv2d(3, base, 3, padding=1)
        self.down = nn.ModuleList()
        before = base
        for i, width in enumerate(widths):
            self.down.append(Level([before, width, width], "downsample" if i < len(widths) - 1 else None, Downsample))
            before = width
        self.mid = Middle(before)
        self.norm_out = Norm(before)
        self.conv_out = nn.Conv2d(before, 2 * latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """latent (n, 16, h, w), already unscaled -> pixels (n, 3, 8h, 8w)."""

    def __init__(self, base: int, latent_channels: int):
        super().__init__()
        widths = [base * m for m in CHANNEL_MULTIPLIERS]
        self.conv_in = nn.Conv2d(latent_channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1])
        levels, before = [], widths[-1]
        for i in reversed(range(len(widths))):
            levels.insert(0, Level([before, *[widths[i]] * 3], "upsample" if i > 0 else None, Upsample))
            before = widths[i]
        self.up = nn.ModuleList(levels)
        self.norm_out = Norm(before)
        self.conv_out = nn.Conv2d(before, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))

    def body(self, z: Tensor) -> Tensor:
        """`forward` up to the last change of resolution but one: features (n, 4 * base, 2h, 2w)."""
        x = self.up[3](self.mid(self.conv_in(z)))
        for block in cast("Level", self.up[2]).block:
            x = block(x)
        return x


class AutoEncoder(nn.Module):
    def __init__(self, base: int, latent_channels: int = 16):
        super().__init__()
        self.encoder = Encoder(base, latent_channels)
        self.decoder = Decoder(base, latent_channels)

    def encode(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Scaled latent (n, 16, H/8, W/8): the posterior's mean plus std * noise; without noise torch draws it."""
        return self.sample(self.encoder(pixels), noise)

    def sample(self, moments: Tensor, noise: Tensor | None = None) -> Tensor:
        """Scaled latent from the encoder's moments (n, 32, h, w)."""
        mean, logvar = moments.chunk(2, dim=1)
        noise = torch.randn_like(mean) if noise is None else noise
        return SCALE * (mean + torch.exp(0.5 * logvar) * noise - SHIFT)

    def decode(self, latent: Tensor) -> Tensor:
        return self.decoder(latent / SCALE + SHIFT)
