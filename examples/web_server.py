"""A web server that draws: GET /picture?prompt=...&seed=... returns a PNG.   pip install fastapi uvicorn

python examples/web_server.py    then open http://127.0.0.1:8000/picture?prompt=a+red+ring
"""

import io
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Response

import bagel_rt


@asynccontextmanager
async def lifespan(app: FastAPI):
    with bagel_rt.load("bagel-nano") as app.state.bagel:
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/picture")
def picture(prompt: str, seed: int = 1) -> Response:  # a plain def: FastAPI calls it on a thread of its pool
    try:
        image = app.state.bagel.generate(prompt, seed=seed).image
    except bagel_rt.InputError as error:
        raise HTTPException(422, str(error)) from error
    image.save(file := io.BytesIO(), "PNG")
    return Response(file.getvalue(), media_type="image/png")


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app)
