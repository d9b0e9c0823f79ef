"""The contract between exporter, runtime and engines: every graph with its tensors' names, dtypes and symbolic shapes.

The same names are used in Python, in the ONNX files and in every engine; there is no translation table. A change that
an older artefact or runtime would not survive raises CONTRACT_VERSION. (Several pictures in one run would need latents
with a mask: that would be another graph with a name of its own, not a change of `gen_step`.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

FORMAT_VERSION = 2  # of bagel_rt.json
CONTRACT_VERSION = 1  # of the graphs below

VIT, UND_STEP, GEN_STEP = "vit", "und_step", "gen_step"
FLOW_EMBED, FLOW_HEAD, LM_HEAD = "flow_embed", "flow_head", "lm_head"
VAE_ENCODER, VAE_DECODER = "vae_encoder", "vae_decoder"
LAYER = "layer"  # gen_step's first layer alone, which `bagel-rt plan` times; no request calls it
# vae_decoder once more, cut into parts at the group norms of its two highest resolutions, so that large pictures can be
# decoded strip by strip (model/vae_strips.py)
VAE_BODY, VAE_OUT = "vae_body", "vae_out"
VAE_LEVELS = (1, 0)  # the two highest resolutions, by the checkpoint's numbers, in the order they are computed
VAE_RISE = {level: f"vae_up_{level}" for level in VAE_LEVELS}
VAE_BLOCKS = {level: tuple((f"vae_{level}_{i}_in", f"vae_{level}_{i}_out") for i in range(3)) for level in VAE_LEVELS}
VAE_STRIPS = (
    *(
        part
        for level in VAE_LEVELS
        for part in (VAE_RISE[level], *(part for pair in VAE_BLOCKS[level] for part in pair))
    ),
    VAE_OUT,
)
EXTRAS = (LAYER, VAE_BODY, *VAE_STRIPS)  # graphs an artefact may have beside those of its task
NORM_GROUPS, NORM_EPSILON = 32, 1e-6  # of the VAE's group norms

# inputs that the step graphs get when a model is loaded with adapters (the files have neither): which of their ranks a
# call uses, int64 (n,), and what each is multiplied by, float32 (n,)
ADAPTER_COLUMNS, ADAPTER_SCALES = "adapter_columns", "adapter_scales"

TASK_GRAPHS = {
    "full": (VIT, UND_STEP, GEN_STEP, FLOW_EMBED, FLOW_HEAD, LM_HEAD, VAE_ENCODER, VAE_DECODER),
    "understand": (VIT, UND_STEP, LM_HEAD),
}

Dim = int | str


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a graph; a dimension is a number or a symbol (see graph_specs)."""

    name: str
    dtype: str  # numpy's name, or "bfloat16"
    shape: tuple[Dim, ...]


@dataclass(frozen=True)
class GraphSpec:
    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class ModelDims:
    """The sizes that graphs and runtime share; stored as "model" in bagel_rt.json. Every field is required there."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rope_theta: float
    layer_module: str
    vit_patch_size: int
    vit_grid: int  # patches per side the position table holds
    latent_channels: int
    latent_patch_size: int
    vae_downsample: int
    max_latent_size: int  # latent tokens per side the position table holds
    vae_scale: float
    vae_shift: float

    @property
    def latent_width(self) -> int:
        """Numbers in one latent token."""
        return self.latent_channels * self.latent_patch_size**2

    @property
    def latent_stride(self) -> int:
        """Pixels per latent token and side."""
        return self.vae_downsample * self.latent_patch_size

    @property
    def patch_width(self) -> int:
        return 3 * self.vit_patch_size**2


def graph_specs(m: ModelDims, cache: str = "float32") -> dict[str, GraphSpec]:
    """Every graph for a model of these sizes.

    cache: dtype of the cached keys and values, which is also what the step graphs compute in. All other inputs and
    outputs are float32 whatever a graph computes in, so that the host's arithmetic is the same for every precision.

    The symbols:

    und_rows, gen_rows: rows of this call through each expert; past: tokens of the context; pool_rows: 2 * layers *
    pool slots, row (2 * layer) * slots + slot holding K and (2 * layer + 1) * slots + slot holding V.
    """

    def f(name: str, *shape: Dim) -> TensorSpec:
        return TensorSpec(name, "float32", shape)

    def kept(name: str, *shape: Dim) -> TensorSpec:
        return TensorSpec(name, cache, shape)

    def i(name: str, *shape: Dim) -> TensorSpec:
        return TensorSpec(name, "int64", shape)

    hidden, kv, d, layers = m.hidden_size, m.num_key_value_heads, m.head_dim, m.num_hidden_layers
    und = (f("und", "und_rows", hidden),)
    und_rope = (f("und_cos", "und_rows", d), f("und_sin", "und_rows", d))
    gen_rope = (f("gen_cos", "gen_rows", d), f("gen_sin", "gen_rows", d))
    past = (kept("pool", "pool_rows", kv, d), i("slots", "past"))
    ids = i("position_ids", "gen_rows")
    specs = [
        GraphSpec(
            VIT,
            (f("patches", "patches", m.patch_width), i("position_ids", "patches")),
            (f("rows", "patches", hidden),),
        ),
        GraphSpec(
            UND_STEP,
            (*und, *und_rope, *past, TensorSpec("mask", "bool", ("und_rows", "past + und_rows"))),
            (f("und_out", "und_rows", hidden), kept("new_kv", 2 * layers, "und_rows", kv, d)),
        ),
        GraphSpec(
            GEN_STEP,
            (
                *und,
                f("gen", "gen_rows", hidden),
                *und_rope,
                *gen_rope,
                *past,
                TensorSpec("mask", "bool", ("und_rows", "past + und_rows + gen_rows")),
            ),
            (
                f("und_out", "und_rows", hidden),
                f("gen_out", "gen_rows", hidden),
                kept("new_kv", 2 * layers, "und_rows + gen_rows", kv, d),
            ),
        ),
        GraphSpec(
            FLOW_EMBED, (f("latents", "gen_rows", m.latent_width), f("time", 1), ids), (f("gen", "gen_rows", hidden),)
        ),
        GraphSpec(FLOW_HEAD, (f("gen_out", "gen_rows", hidden),), (f("velocity", "gen_rows", m.latent_width),)),
        GraphSpec(LM_HEAD, (f("und_out", "und_rows", hidden),), (f("logits", "und_rows", m.vocab_size),)),
        GraphSpec(
            VAE_ENCODER,
            (f("pixels", 1, 3, "height", "width"),),
            (f("moments", 1, 2 * m.latent_channels, "height/8", "width/8"),),
        ),
        GraphSpec(
            VAE_DECODER,
            (f("latent", 1, m.latent_channels, "latent_height", "latent_width"),),
            (f("pixels", 1, 3, "8*latent_height", "8*latent_width"),),
        ),
    ]
    return {spec.name: spec for spec in specs}


def layer_spec(m: ModelDims, cache: str = "float32") -> GraphSpec:
    """The graph LAYER: gen_step of a decoder with one layer."""
    return replace(graph_specs(replace(m, num_hidden_layers=1), cache)[GEN_STEP], name=LAYER)


def strip_specs(m: ModelDims, width: int) -> dict[str, GraphSpec]:
    """The graphs that decode a picture in strips: VAE_BODY and VAE_STRIPS. width: the decoder's first (smallest) width.

    A strip is some rows of a picture with all columns; convolutions pad it with zeros. A part begins with a group norm
    whose statistics are inputs, because they are of the whole picture: mean and rate of each channel, for
    (x - mean) * rate, before the norm's weight and bias.
    """

    def strip(name: str, channels: int, scale: int = 1) -> TensorSpec:
        size = ("rows", "columns") if scale == 1 else (f"{scale}*rows", f"{scale}*columns")
        return TensorSpec(name, "float32", (1, channels, *size))

    def norm(channels: int) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(name, "float32", (channels,)) for name in ("mean", "rate"))

    latent = TensorSpec("latent", "float32", (1, m.latent_channels, "latent_height", "latent_width"))
    low = m.vae_downsample // 2 ** len(VAE_LEVELS)
    features = TensorSpec("features", "float32", (1, 4 * width, f"{low}*latent_height", f"{low}*latent_width"))
    specs = [
        GraphSpec(VAE_BODY, (latent,), (features,)),
        GraphSpec(VAE_OUT, (strip("x", width), *norm(width)), (strip("pixels", 3),)),
    ]
    before = 4 * width
    for level in VAE_LEVELS:
        specs.append(GraphSpec(VAE_RISE[level], (strip("x", before),), (strip("y", before, 2),)))
        after = before // 2
        for first, second in VAE_BLOCKS[level]:
            skip = strip("skip", before)
            specs.append(GraphSpec(first, (strip("x", before), *norm(before)), (strip("y", after),)))
            specs.append(GraphSpec(second, (strip("x", after), *norm(after), skip), (strip("y", after),)))
            before = after
    return {spec.name: spec for spec in specs}


def dim_value(dim: Dim, sizes: Mapping[str, int]) -> int:
    """A dimension for given symbol values: a number, a symbol, a sum of symbols, or a multiple or part of one."""
    if isinstance(dim, int):
        return dim
    if "/" in dim:
        name, part = dim.split("/")
        return sizes[name] // int(part)
    if "*" in dim:
        factor, name = dim.split("*")
        return int(factor) * sizes[name]
    return sum(sizes[part] for part in dim.split(" + "))


def input_shapes(spec: GraphSpec, sizes: Mapping[str, int], halves: int) -> dict[str, tuple[int, ...]]:
    """Concrete input shapes for given symbol values; a symbolic sum is added up, the pool has `pool_slots`."""
    known = {**sizes, "pool_rows": halves * sizes["pool_slots"]} if "pool_slots" in sizes else sizes
    return {t.name: tuple(dim_value(d, known) for d in t.shape) for t in spec.inputs}
