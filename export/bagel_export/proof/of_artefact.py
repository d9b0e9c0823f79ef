"""The artefact's side of a proof: every stage run on what the reference took, and compared with what it gave."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bagel_engines.number_formats import widened
from bagel_export.proof.cases import Case, Trace
from bagel_export.proof.findings import EXACT, Finding, Limits, compared, identical
from bagel_rt.api import CACHE_TOKENS, Bagel
from bagel_rt.artefact import contract
from bagel_rt.asks import TextRows
from bagel_rt.errors import InputError
from bagel_rt.inputs.images import patchify, position_ids, resize, to_pixels
from bagel_rt.inputs.pictures import open_image
from bagel_rt.inputs.segments import Grid, Histories, History, Latents, Patches, Segment, Text
from bagel_rt.inputs.system_prompts import THINK_THEN_ANSWER, THINK_THEN_DRAW
from bagel_rt.inputs.tokenizer import TextCodec
from bagel_rt.kv_cache.page_pool import PagePool
from bagel_rt.model.context_tree import Context, ContextTree, Lease
from bagel_rt.model.prefill import Prefill
from bagel_rt.model.step_graphs import Experts
from bagel_rt.model.text_evaluator import TextEvaluator
from bagel_rt.model.token_embeddings import TokenEmbeddings

VELOCITIES = {"cond": "v_cond", "cfg_text": "v_text", "cfg_img": "v_img"}
UNCACHED = 5  # step caching evaluates the first so many steps


class Artefact:
    """A loaded model whose stages can be run one by one on given inputs."""

    def __init__(self, bagel: Bagel, cache_tokens: int = CACHE_TOKENS):
        self.bagel, self.manifest, self.graphs = bagel, bagel.manifest, bagel.graphs
        self._model, self._codec = bagel.manifest.model, TextCodec(bagel.manifest)
        self._embeddings = TokenEmbeddings(bagel.manifest)
        self._experts = Experts(bagel.manifest, bagel.graphs, self._embeddings.markers)
        self._prefill = Prefill(bagel.manifest, bagel.graphs, self._experts, self._embeddings)
        self._pool = PagePool(
            bagel.manifest.model, cache_tokens, bagel.manifest.arithmetic, make_cache=bagel.graphs.engine.cache
        )
        self._evaluator = TextEvaluator(bagel.graphs, self._experts, self._embeddings, self._pool)

    def compare(self, case: Case, trace: Trace, limits: Limits) -> Iterator[Finding]:
        """Findings in the order in which a call passes the stages. Ends early where the inputs already differ."""
        try:
            histories = yield from self._inputs(case, trace, limits)
        except _DifferentInput as stop:
            yield stop.finding
            return
        positions = self._model.max_position_embeddings
        with ContextTree(self._pool, self._prefill, self._evaluator, positions).lease() as tree:
            if "text0.returned_ids" in trace:
                yield from self._writing(case, trace, limits, tree, histories)
                histories = self._with_thought(case, trace, histories)
            if case.output == "image":
                yield from self._drawing(case, trace, limits, tree, histories)
        yield from self._whole(case, trace, limits)

    # What goes in

    def _inputs(self, case: Case, trace: Trace, limits: Limits):
        """Tokens, transforms and encoders; returns the histories, made of the reference's own inputs."""
        histories, texts, images = Histories(), 0, 0
        if case.think:
            prompt = THINK_THEN_ANSWER if case.output == "text" else THINK_THEN_DRAW
            yield from self._tokens(case, trace, prompt, texts)
            histories, texts = histories.with_system(Text(self._codec.segment(prompt))), texts + 1
        for item in case.items:
            if isinstance(item, str):
                yield from self._tokens(case, trace, item, texts)
                histories, texts = histories.with_text(Text(self._codec.segment(item))), texts + 1
            else:
                segments = yield from self._image(case, trace, limits, item, images)
                histories, images = histories.with_image(*segments), images + 1
        return histories

    def _tokens(self, case: Case, trace: Trace, text: str, n: int) -> Iterator[Finding]:
        if (key := f"text_ids{n}") in trace:
            yield identical(case.name, f"tokens {n}", self._codec.segment(text), trace[key].tolist())

    def _image(self, case: Case, trace: Trace, limits: Limits, image: np.ndarray, n: int):
        """Transforms and encoders of one input image; returns its segments."""
        picture, segments = resize(self.manifest.vae_transform, open_image(image)), list[Segment]()
        if case.output == "image":
            yield from self._same(case, f"transform {n}, VAE", to_pixels(picture)[None], trace[f"vae_encode{n}.in"])
            segments.append((yield from self._latents(case, trace, limits, n)))
        pixels, m = to_pixels(resize(self.manifest.vit_transform, picture)), self._model
        grid = (pixels.shape[1] // m.vit_patch_size, pixels.shape[2] // m.vit_patch_size)
        patches = trace[f"vit{n}.pixels"].astype(np.float32)
        yield from self._same(case, f"transform {n}, ViT", patchify(pixels, m.vit_patch_size), patches)
        ids = position_ids(grid, m.vit_grid)
        (rows,) = self.graphs(contract.VIT, patches=patches, position_ids=ids)
        yield compared(case.name, f"ViT and connector {n}", rows, trace[f"vit{n}.rows"], limits.stage)
        segments.append(Patches(patches, grid))
        return segments

    def _latents(self, case: Case, trace: Trace, limits: Limits, n: int):
        """VAE encoding of the reference's pixels; returns the segment of the reference's latent."""
        m, latent = self._model, trace[f"vae_encode{n}.latent"].astype(np.float32)
        (moments,) = self.graphs(contract.VAE_ENCODER, pixels=trace[f"vae_encode{n}.in"].astype(np.float32))
        yield compared(case.name, f"VAE encode {n}", moments, trace[f"vae_encode{n}.moments"], limits.stage)
        mean, logvar = np.split(moments, 2, axis=1)
        noise = [value for key, value in sorted(trace.items()) if key.endswith(".vae_encode_noise")]
        drawn = mean + np.exp(np.float32(0.5) * logvar) * noise[n] if n < len(noise) else mean
        scaled = np.float32(m.vae_scale) * (drawn - np.float32(m.vae_shift))
        yield compared(case.name, f"latent of image {n}", scaled, latent, limits.stage)
        grid = (latent.shape[2] // m.latent_patch_size, latent.shape[3] // m.latent_patch_size)
        return Latents(patchify(latent[0], m.latent_patch_size), grid)

    def _same(self, case: Case, stage: str, got: np.ndarray, wanted: np.ndarray) -> Iterator[Finding]:
        """A finding about pixels; what follows means nothing where their shapes differ."""
        finding = compared(case.name, stage, got, wanted, EXACT)
        if got.shape != wanted.shape:
            raise _DifferentInput(finding)
        yield finding

    # Text

    def _writing(
        self, case: Case, trace: Trace, limits: Limits, tree: Lease, histories: Histories
    ) -> Iterator[Finding]:
        """Greedy text token by token, each after the reference's own tokens."""
        yield from self._cache(case, trace, limits, tree, "text0.kv_before", histories.cond)
        ids, wanted = trace["text0.returned_ids"].tolist(), trace["text0.logits"]
        got = self._logits(tree, tree.open(histories.cond), ids[: len(wanted)])
        yield compared(case.name, "greedy text, logits", got, wanted[: len(got)], limits.stage)
        if not case.text_options.do_sample:
            best, best_wanted = got.argmax(axis=1).tolist(), wanted[: len(got)].argmax(axis=1).tolist()
            yield identical(case.name, "greedy text, next token", best, best_wanted, 1 - limits.tokens)

    def _logits(self, tree: Lease, context: Context, ids: list[int]) -> np.ndarray:
        """Logits (len(ids), vocab) after each of the given tokens behind a context."""
        scratch, logits = tree.branch(context), []
        for token in ids:
            ask = TextRows(self._evaluator, (token,), scratch.sequence, scratch.position, logits=True)
            logits.append(self._evaluator.alone(ask))
            scratch.position += 1
        return np.concatenate(logits)

    def _with_thought(self, case: Case, trace: Trace, histories: Histories) -> Histories:
        if case.output == "text":
            return histories
        thought = self._codec.text(trace["text0.returned_ids"].tolist())
        return histories.with_thought(Text(self._codec.segment(thought)))

    # Pictures

    def _drawing(
        self, case: Case, trace: Trace, limits: Limits, tree: Lease, histories: Histories
    ) -> Iterator[Finding]:
        for branch in VELOCITIES:
            yield from self._cache(case, trace, limits, tree, f"kv.{branch}", getattr(histories, branch))
        planes, m = trace["vae_decode.in"].astype(np.float32), self._model
        grid = (planes.shape[2] // m.latent_patch_size, planes.shape[3] // m.latent_patch_size)
        for branch, key in VELOCITIES.items():
            context = tree.open(getattr(histories, branch))
            for i in _steps(case, trace, key):
                got = self._velocity(tree, context, trace["flow.x_t"][i], trace["flow.t"][i], grid)
                wanted = trace[f"flow.{key}"][i]
                yield compared(case.name, f"velocity {branch}, step {i}", got, wanted, limits.stage)
        scaled = planes / np.float32(m.vae_scale) + np.float32(m.vae_shift)
        (pixels,) = self.graphs(contract.VAE_DECODER, latent=scaled)
        yield compared(case.name, "VAE decode", pixels, trace["vae_decode.out"], limits.stage)

    def _velocity(self, tree: Lease, context: Context, x: np.ndarray, t: np.ndarray, grid: Grid) -> np.ndarray:
        frame = self._experts.frame(context.position, len(x), tree.pool, context.sequence)
        rows = self._prefill.latent_rows(x.astype(np.float32), np.float32(t), grid)
        return self.graphs(contract.FLOW_HEAD, gen_out=self._experts.last_rows(rows, frame))[0]

    def _cache(
        self, case: Case, trace: Trace, limits: Limits, tree: Lease, key: str, history: History
    ) -> Iterator[Finding]:
        """A context's length, and the keys and values of each pass that filled it, where they were kept."""
        context, name = tree.open(history), key.removeprefix("kv.").replace("text0.kv_before", "before the text")
        length = int(trace[f"{key}.len"])
        if context.length != length:
            detail = f"{context.length} tokens, {length} are expected"
            yield Finding(case.name, f"context {name}", float("inf"), 0.0, detail)
            return
        if f"{key}.k" not in trace:
            return
        held = widened(tree.pool.read(context.sequence), self.manifest.arithmetic)
        pairs = np.stack([trace[f"{key}.k"], trace[f"{key}.v"]], axis=1)  # k and v of each layer
        wanted = pairs.reshape(2 * len(pairs), *pairs.shape[2:])
        start = 0
        for i, segment in enumerate(history):
            place = slice(start, start + segment.tokens)
            stage = f"context {name}, pass {i} ({type(segment).__name__.lower()})"
            yield compared(case.name, stage, held[:, place], wanted[:, place], limits.stage)
            start += segment.tokens

    # The whole call

    def _whole(self, case: Case, trace: Trace, limits: Limits) -> Iterator[Finding]:
        if case.output == "text":
            written = self.bagel.interleave(list(case.items), output="text", **case.options)
            if not case.text_options.do_sample:
                wanted = trace["text0.returned_ids"].tolist()
                yield identical(case.name, "whole text", written.token_ids, wanted, 1 - limits.tokens)
            return
        drawn = self.bagel.interleave(list(case.items), output="image", **case.options)
        yield compared(case.name, "whole latent", drawn.latent, trace["final_latent"], limits.whole)
        got, wanted = np.asarray(drawn.image), trace["image"]
        yield compared(case.name, "whole picture", got, wanted, limits.whole)


class _DifferentInput(Exception):
    """The prepared input has another shape than the reference's."""

    def __init__(self, finding: Finding):
        super().__init__(finding.detail)
        self.finding = finding


def _steps(case: Case, trace: Trace, key: str) -> list[int]:
    """The first, a middle and the last step at which a branch was evaluated."""
    values = trace[f"flow.{key}"]
    run = [i for i in range(len(values)) if not np.isnan(values[i]).any()]
    if case.options.get("step_cache"):
        run = [i for i in run if i < UNCACHED]
    return sorted({run[0], run[len(run) // 2], run[-1]}) if run else []


def check_same_model(artefact: contract.ModelDims, checkpoint: contract.ModelDims, name: str) -> None:
    """Raise InputError naming the first size in which a checkpoint is not the one an artefact was made from."""
    for key, value in vars(artefact).items():
        if getattr(checkpoint, key) != value:
            raise InputError(
                f"{name}: its {key} is {getattr(checkpoint, key)}, the artefact's is {value}: another model; name the"
                " checkpoint the artefact was exported from"
            )
