"""What a manifest may state, checked before a file is opened or memory is taken: names inside the folder, sizes that a
model can have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

MOST_BYTES = 1 << 46  # of a file, and of a graph's weights: 64 TiB
MOST_FILES = 10_000
MOST_TOKENIZER = 1 << 28  # bytes; BAGEL's is a few million
# the largest value of each whole number in "model": several times what any published model of this kind has
MOST_DIMS = {
    "hidden_size": 1 << 16,
    "num_hidden_layers": 1 << 10,
    "num_attention_heads": 1 << 10,
    "num_key_value_heads": 1 << 10,
    "head_dim": 1 << 12,
    "vocab_size": 1 << 24,
    "max_position_embeddings": 1 << 24,
    "vit_patch_size": 1 << 10,
    "vit_grid": 1 << 12,
    "latent_channels": 1 << 10,
    "latent_patch_size": 1 << 6,
    "vae_downsample": 1 << 8,
    "max_latent_size": 1 << 12,
}
MOST_KEYS = 1 << 24  # numbers of one token's keys and values in all layers: the page pool has as many for each token
MOST_SIDE, MOST_PIXELS = 1 << 16, 1 << 32  # of a picture that is resized
MOST_WIDTH = 1 << 20


def plain_name(key: str, name: Any) -> str:
    """The name of a file that lies in the artefact's folder itself, on any system. Raises ValueError."""
    if not isinstance(name, str) or not 0 < len(name.encode("utf-8", "surrogatepass")) <= 255:
        raise ValueError(f"{key} must be a file's name, found {name!r:.80}")
    if name in (".", "..") or any(sign in name for sign in "/\\:") or not name.isprintable():
        raise ValueError(f"{key}: {name!r} is not the name of a file in this folder; a path must not lead out of it")
    return name


def whole(key: str, value: Any, least: int, most: int) -> int:
    """A whole number between bounds. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{key} must be a whole number, found {value!r:.80}")
    if not least <= value <= most:
        raise ValueError(f"{key} is {value!r:.80}; allowed are {least} to {most}")
    return value


def mapping(key: str, value: Any) -> Mapping[str, Any]:
    """A JSON object. Raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError(f"{key} must be an object, found {value!r:.80}")
    return value


def check_files(files: Any) -> None:
    """Every entry of "files": a plain name that is no other's on any system, and a size that a file can have."""
    if len(mapping("files", files)) > MOST_FILES:
        raise ValueError(f"files has {len(files)} entries; allowed are {MOST_FILES}")
    seen: dict[str, str] = {}
    for name, entry in files.items():
        plain_name("files", name)
        whole(f"files.{name}.size", mapping(f"files.{name}", entry)["size"], 0, MOST_BYTES)
        if (other := seen.setdefault(name.casefold(), name)) != name:
            raise ValueError(f"files has {other!r} and {name!r}, which are one file where case does not count")


def check_graphs(key: str, graphs: Any) -> None:
    """Every entry of "graphs" or "extra_graphs"."""
    for graph, entry in mapping(key, graphs).items():
        plain_name(f"{key}.{graph:.80}.file", mapping(f"{key}.{graph:.80}", entry)["file"])
        whole(f"{key}.{graph:.80}.weight_bytes", entry.get("weight_bytes", 0), 0, MOST_BYTES)


def check_dims(model: Mapping[str, Any]) -> None:
    """The whole numbers of "model", each by itself and those that the page pool multiplies."""
    for name, most in MOST_DIMS.items():
        whole(f"model.{name}", model[name], 1, most)
    each = 2 * model["num_hidden_layers"] * model["num_key_value_heads"] * model["head_dim"]
    if each > MOST_KEYS:
        raise ValueError(f"model: a token's keys and values would be {each} numbers; allowed are {MOST_KEYS}")
    for name in ("rope_theta", "vae_scale", "vae_shift"):
        if isinstance(model[name], bool) or not isinstance(model[name], int | float) or not abs(model[name]) < 1e15:
            raise ValueError(f"model.{name} must be a number, found {model[name]!r:.80}")


def check_widths(widths: Mapping[str, Any], names: Iterable[str]) -> None:
    for name in names:
        whole(f"widths.{name}", widths[name], 0, MOST_WIDTH)


def check_resizing(key: str, rule: Mapping[str, Any]) -> None:
    """One of "transforms"."""
    for name, value in mapping(f"transforms.{key}", rule).items():
        whole(f"transforms.{key}.{name}", value, 1, MOST_PIXELS if name == "max_pixels" else MOST_SIDE)


def check_table(table: Mapping[str, Any], width: int, itemsize: int, files: Mapping[str, Any]) -> None:
    """ "embeddings": as wide as the model, and inside its file. itemsize: bytes of one number."""
    name = plain_name("embeddings.file", table["file"])
    offset, (rows, columns) = whole("embeddings.offset", table["offset"], 0, MOST_BYTES), table["shape"]
    whole("embeddings.shape", rows, 1, MOST_DIMS["vocab_size"])
    if columns != width:
        raise ValueError(f"embeddings.shape has rows of {columns!r:.80}, model.hidden_size is {width}")
    size = files[name]["size"] if name in files else MOST_BYTES  # what is not listed is refused by that
    if offset + rows * columns * itemsize > size:
        raise ValueError(
            f"embeddings: {rows} rows of {columns} from byte {offset} do not fit into {name}, {size} bytes"
        )
