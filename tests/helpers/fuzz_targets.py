"""What is read from strangers, as functions of bytes: each reads them, or refuses them with the error that is its own.

Anything else that comes out is a finding. `TARGETS` is used by tests/fuzzing/ and by bench/fuzz.py; where each begins
is `seeds`, and the files in tests/fuzzing/found/, which once were findings.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from nano_copy import nano_copy

from bagel_rt.artefact.folders import BUNDLED
from bagel_rt.artefact.manifest import MANIFEST, read_manifest
from bagel_rt.errors import ArtefactError, BagelError, CheckpointError, InputError

QUERY = "language_model.model.layers.0.self_attn.q_proj"
NAMES = {f"{QUERY}.weight", f"{QUERY}.bias", "language_model.model.embed_tokens.weight"}


@dataclass(frozen=True)
class Target:
    """read: called with bytes and an empty folder; raises one of `refusals` or nothing."""

    read: Callable[[bytes, Path], object]
    refusals: tuple[type[BagelError], ...]
    seeds: Callable[[], list[bytes]]

    def __call__(self, data: bytes) -> bool:
        """Whether the bytes were read; what is neither read nor refused is raised."""
        with tempfile.TemporaryDirectory() as place:
            try:
                self.read(data, Path(place))
            except self.refusals as error:
                if not str(error):
                    raise AssertionError("an error without words") from error
                return False
        return True


def written(name: str, data: bytes, place: Path) -> Path:
    path = place / name
    path.write_bytes(data)
    return path


# pictures, and the records in them


def picture(data: bytes, place: Path) -> None:
    from bagel_rt.inputs.pictures import open_image

    assert open_image(data).mode == "RGB"


def record(data: bytes, place: Path) -> None:
    from bagel_rt.results import read_metadata

    assert isinstance(read_metadata(written("a.png", data, place)), dict)


def pictures() -> list[bytes]:
    """A small picture in each format, and odd ones: a palette, 16 bits, transparency, EXIF."""
    from PIL import Image

    plain = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    made = [_saved(plain, kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "ICO", "PPM", "TGA")]
    odd = [plain.convert(mode) for mode in ("P", "L", "1", "RGBA", "LA", "I;16", "CMYK")]
    exif = Image.Exif()
    exif[0x0112] = 6
    return made + [_saved(one, "TIFF" if one.mode == "CMYK" else "PNG") for one in odd] + [_saved(plain, "JPEG", exif)]


def records() -> list[bytes]:
    """Pictures with a record, whole and broken."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from bagel_rt.files.picture_records import arguments

    plain, made = Image.new("RGB", (4, 4), "red"), []
    stated = {"bagel_rt": "1", "seed": 7, "options": {"height": 64}}
    for kind, ending in (("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp"), ("TIFF", "tif")):
        stream = io.BytesIO()
        plain.save(stream, kind, **arguments(Path(f"a.{ending}"), stated))
        made.append(stream.getvalue())
    for text in ("{", "[]", '{"a":' * 50, "1" * 5000):
        info, stream = PngInfo(), io.BytesIO()
        info.add_text("bagel_rt", text)
        plain.save(stream, "PNG", pnginfo=info)
        made.append(stream.getvalue())
    return made


def _saved(image: Any, kind: str, exif: Any = None) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **({"exif": exif} if exif else {}))
    return stream.getvalue()


# artefacts


@cache
def _artefact() -> Path:
    return nano_copy(Path(tempfile.mkdtemp(prefix="fuzz-")) / "model")


def manifest(data: bytes, place: Path) -> None:
    folder = _artefact()
    (folder / MANIFEST).write_bytes(data)
    found = read_manifest(folder)
    assert found.fingerprint
    assert found.weight_bytes >= 0


def graph(data: bytes, place: Path) -> None:
    from bagel_rt.artefact.graph_files import check_graph
    from bagel_rt.artefact.stamps import stamp

    path = written("vit.onnx", data, place)
    check_graph(path, stamp(path), {"vit.onnx": len(data), "weights.safetensors": 1 << 30})


def signature(data: bytes, place: Path) -> None:
    """The first half is taken for the signature, the other for the key."""
    from bagel_rt.artefact.signatures import SIGNATURE, check_signature

    folder = _artefact()
    (folder / MANIFEST).write_bytes((BUNDLED / MANIFEST).read_bytes())
    (folder / SIGNATURE).write_bytes(data[: len(data) // 2])
    check_signature(read_manifest(folder), written("mine.pub.pem", data[len(data) // 2 :], place))


def signatures() -> list[bytes]:
    key = (
        b"-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n"
        b"-----END PUBLIC KEY-----\n"
    )
    stated = {"format": "bagel-rt signature 1", "key": "0" * 16, "manifest_sha256": "0" * 64, "signature": "AA=="}
    text = json.dumps(stated).encode()
    return [text.ljust(len(key)) + key.ljust(len(text)), b"{}", key]


# checkpoints and adapters


def safetensors(tensors: dict[str, np.ndarray], words: dict[str, str] | None = None) -> bytes:
    """A file of float32 tensors."""
    header: dict[str, Any] = {"__metadata__": words} if words else {}
    data = b""
    for name, values in tensors.items():
        more = values.astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": [*values.shape], "data_offsets": [len(data), len(data) + len(more)]}
        data += more
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def weights(data: bytes, place: Path) -> None:
    from bagel_rt.files.safetensors_file import DTYPES, read_header

    for tensor in read_header(written("a.safetensors", data, place)).values():
        if tensor.dtype in DTYPES:
            assert tensor.mapped().shape == tensor.shape


def index(data: bytes, place: Path) -> None:
    from bagel_export.checkpoint.shards import find_weights, read_weights

    written("model-00001-of-00002.safetensors", safetensors({"a": np.zeros(2), "b": np.zeros(1)}), place)
    written("model-00002-of-00002.safetensors", safetensors({"c": np.zeros(1)}), place)
    written("model.safetensors.index.json", data, place)
    assert read_weights(find_weights(place))


def indices() -> list[bytes]:
    files = {name: f"model-0000{n}-of-00002.safetensors" for name, n in (("a", 1), ("b", 1), ("c", 2))}
    return [json.dumps(one).encode() for one in ({"metadata": {}, "weight_map": files}, {"weight_map": {"a": 1}}, [])]


PARTS = {f"{QUERY}.lora_A.weight": np.ones((2, 4)), f"{QUERY}.lora_B.weight": np.ones((4, 2))}
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}


def adapter_config(data: bytes, place: Path) -> None:
    written("adapter_model.safetensors", safetensors(PARTS), place)
    written("adapter_config.json", data, place)
    _adapter(place)


def adapter_file(data: bytes, place: Path) -> None:
    _adapter(written("pytorch_lora_weights.safetensors", data, place))


def _adapter(path: Path) -> None:
    from bagel_rt.adapters.read import Lora, read_adapter

    found = read_adapter(Lora(path), NAMES)
    assert found.updates or found.whole


def configs() -> list[bytes]:
    changed = [{}, {"use_dora": True}, {"rank_pattern": {"q_proj": 2}}, {"alpha_pattern": {".*q": 1.5}}, {"r": "2"}]
    return [json.dumps({**CONFIG, **change}).encode() for change in changed]


def adapters() -> list[bytes]:
    flat = QUERY.replace(".", "_")
    kohya = {f"lora_unet_{flat}.lora_down.weight": np.ones((2, 4)), f"lora_unet_{flat}.lora_up.weight": np.ones((4, 2)),
             f"lora_unet_{flat}.alpha": np.ones(())}  # fmt: skip
    dora = {**PARTS, f"{QUERY}.lora_magnitude_vector": np.ones(4)}
    stated = {"lora_adapter_metadata": json.dumps({f"transformer.{key}": value for key, value in CONFIG.items()})}
    return [safetensors(PARTS), safetensors(PARTS, stated), safetensors(kohya), safetensors(dora)]


def carried(data: bytes, place: Path) -> None:
    """A single file of ComfyUI's nodes, whose header carries the model's configs."""
    from bagel_export.checkpoint.packings.comfyui import carried_configs

    carried_configs(written("model.safetensors", data, place))


def carriers() -> list[bytes]:
    root = Path(__file__).parents[1] / "golden" / "checkpoint"
    configs = {name: json.loads((root / name).read_text()) for name in ("llm_config.json", "vit_config.json")}
    stated = {"format": "comfyui_bagel", "format_version": 1, "model_configs": configs}
    return [safetensors(PARTS, {"comfyui_bagel": json.dumps(stated)}), safetensors(PARTS), b"{}"]


# what users write


def batch(data: bytes, place: Path) -> None:
    from bagel_rt.cli.jsonl_requests import read_requests

    assert all(request.prompt is not None for request in read_requests(written("requests.jsonl", data, place)))


def batches() -> list[bytes]:
    lines = [{"prompt": "a cat", "id": "1", "seed": 3}, {"prompt": "what?", "task": "ask", "max_tokens": 4},
             {"prompt": "x", "preset": "notebook", "height": 64, "images": 2}]  # fmt: skip
    return ["\n".join(map(json.dumps, lines)).encode(), *(json.dumps(line).encode() for line in lines)]


def style(data: bytes, place: Path) -> None:
    from bagel_rt.styles.files import read_style

    assert read_style(written("a.toml", data, place)).name is not None


def styles() -> list[bytes]:
    from bagel_rt.styles.files import FOLDER

    return [path.read_bytes() for path in FOLDER.glob("*.toml")]


# requests of a server

ROUTES = ("/v1/images/generations", "/v1/images/edits", "/v1/chat/completions", "/v1/responses")
BOUNDARY = "cut"


class _Enough(InputError):
    """A request that was understood: nothing is drawn."""


@cache
def _live() -> Any:
    """A server whose model checks a call and does not begin it; it ends with the process."""
    from live_server import Lent, serving

    import bagel_rt

    class Checking(Lent):
        def stream(self, *items: Any, **options: Any) -> Any:
            self._bagel.stream(*items, **options).close()
            raise _Enough("understood")

    @contextmanager
    def running() -> Iterator[Any]:
        with bagel_rt.load("bagel-nano", backend="onnxruntime") as bagel, serving(lambda: Checking(bagel)) as live:
            yield live

    kept = running()
    _living.append(kept)
    return kept.__enter__()


_living: list[Any] = []


def closed() -> None:
    """End the server, if one was started."""
    while _living:
        _living.pop().__exit__(None, None, None)
    _live.cache_clear()


def body(data: bytes, place: Path) -> None:
    """The first byte says which route, the others are JSON."""
    route, text = ROUTES[(data[0] if data else 0) % len(ROUTES)], data[1:]
    _answered(route, text, "application/json")


def form(data: bytes, place: Path) -> None:
    route = ROUTES[(data[0] if data else 0) % 2]
    _answered(route, data[1:], f"multipart/form-data; boundary={BOUNDARY}")


def _answered(route: str, data: bytes, kind: str) -> None:
    answer = _live().post(route, content=data, headers={"content-type": kind})
    assert answer.status_code < 500, (answer.status_code, answer.text)
    if answer.status_code >= 400:
        assert answer.json()["error"]["message"], answer.text
        raise InputError(answer.text)


def bodies() -> list[bytes]:
    import base64

    address = "data:image/png;base64," + base64.b64encode(pictures()[0]).decode()
    said = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": address}}],
        }
    ]
    asked = [
        (0, {"prompt": "a cat", "n": 1, "size": "64x64", "seed": 1, "num_timesteps": 3, "stream": False}),
        (1, {"prompt": "blue", "images": [{"image_url": address}], "cfg_text_scale": 4.0, "output_format": "png"}),
        (2, {"messages": said, "max_tokens": 4, "modalities": ["text"], "temperature": 0.5}),
        (3, {"input": "hello", "instructions": "be brief", "max_output_tokens": 16}),
    ]
    return [bytes([route]) + json.dumps(what).encode() for route, what in asked]


def forms() -> list[bytes]:
    said, picture = 'Content-Disposition: form-data; name="', 'image"; filename="a.png"'
    lines = [
        f"--{BOUNDARY}",
        f'{said}prompt"',
        "",
        "blue",
        f"--{BOUNDARY}",
        said + picture,
        "Content-Type: image/png",
        "",
    ]
    head = "\r\n".join(lines).encode() + b"\r\n"
    return [b"\1" + head + pictures()[0] + f"\r\n--{BOUNDARY}--\r\n".encode(), b"\0" + head[:60], b"\1--cut--\r\n"]


def _bundled(ending: str) -> Callable[[], list[bytes]]:
    return lambda: [path.read_bytes() for path in BUNDLED.glob(ending)]


def _only(*kinds: type[BagelError]) -> tuple[type[BagelError], ...]:
    return kinds


TARGETS: dict[str, Target] = {
    "picture": Target(picture, _only(InputError), pictures),
    "picture_record": Target(record, _only(InputError), records),
    "manifest": Target(manifest, _only(ArtefactError), _bundled(MANIFEST)),
    "graph": Target(graph, _only(ArtefactError), _bundled("*_head.onnx")),
    "signature": Target(signature, _only(ArtefactError, InputError), signatures),
    "safetensors": Target(weights, _only(CheckpointError), adapters),
    "index": Target(index, _only(CheckpointError), indices),
    "adapter_config": Target(adapter_config, _only(CheckpointError), configs),
    "adapter_file": Target(adapter_file, _only(CheckpointError), adapters),
    "carried_configs": Target(carried, _only(CheckpointError), carriers),
    "batch": Target(batch, _only(InputError), batches),
    "style": Target(style, _only(InputError), styles),
    "http_json": Target(body, _only(InputError), bodies),
    "http_form": Target(form, _only(InputError), forms),
}
