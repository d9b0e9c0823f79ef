"""A request's body as a dictionary: JSON, or a form with files."""

from __future__ import annotations

from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from bagel_rt.errors import InputError
from bagel_rt.files.text_files import parse_json
from bagel_rt.options.image_options import ImageOptions
from bagel_rt.serve.failures import refused

TEXTS = {"prompt", "negative_prompt", "text", "model", "size", "user", "preset", "output_format", "response_format"}
TEXTS |= {name for name, kind in ImageOptions.__annotations__.items() if "str" in kind or "Literal" in kind}
FIELDS, FIELD_BYTES = 200, 2**20


async def json_body(request: Request) -> dict[str, Any]:
    """The JSON object of a request. Raises ApiError 400."""
    data = await request.body()
    try:
        found = parse_json(data.decode("utf-8"))
    except UnicodeDecodeError as seen:
        raise refused(f"the body is not UTF-8: byte {seen.start} is no character") from None
    except InputError as seen:
        raise refused(f"the body is not readable as JSON: {seen}") from None
    if not isinstance(found, dict):
        raise refused(f"the body is a JSON {type(found).__name__}; an object is expected")
    return found


async def body_of(request: Request, most_files: int) -> dict[str, Any]:
    """The fields of a JSON body or of a form; a file as its bytes, a field given several times as a list."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":  # curl -d calls its JSON a form
        return await json_body(request)
    try:
        form = await request.form(max_files=most_files + 1, max_fields=FIELDS, max_part_size=FIELD_BYTES)
    except (MultiPartException, HTTPException) as seen:
        raise refused(f"the form is not readable: {getattr(seen, 'detail', None) or seen}") from None
    try:
        return {key: await _values(key, form) for key in form}
    finally:
        await form.close()


async def _values(key: str, form: FormData) -> Any:
    found = [await one.read() if isinstance(one, UploadFile) else _read(key, one) for one in form.getlist(key)]
    return found if len(found) > 1 else found[0]


def _read(key: str, text: str) -> Any:
    """A form's text as the value it spells; texts stay texts."""
    if key in TEXTS or key.startswith(("image", "mask", "url")):
        return text
    try:
        return parse_json(text.lower() if text in ("True", "False", "None") else text)
    except InputError:
        return text
