"""Uses one model from several threads: they take turns step by step, so a short question need not wait for a picture.

python examples/threads.py    writes thread-1.png, thread-2.png
"""

import time
from concurrent.futures import ThreadPoolExecutor, as_completed

import bagel_rt

begun = time.perf_counter()
with bagel_rt.load("bagel-nano") as bagel, ThreadPoolExecutor() as pool:
    photo = bagel.generate("a blue square", seed=1).image
    work = {
        pool.submit(bagel.generate, "a red ring", seed=1): "thread-1.png",
        pool.submit(bagel.generate, "two green triangles", seed=2): "thread-2.png",
        pool.submit(bagel.ask, "what colour is the square?", photo, max_tokens=20): "an answer",
    }
    for done in as_completed(work):
        result, what = done.result(), work[done]
        if isinstance(result, bagel_rt.ImageResult):
            result.save(what)
        print(f"{time.perf_counter() - begun:.1f} s: {what} {result.text or ''}")
