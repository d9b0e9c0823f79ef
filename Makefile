VENV ?= .venv
PYTHON ?= python3
PIP = $(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint docs ray cuda-standin gpu-pack nano nano-pack mutation fuzz drift lock extras

demo: $(VENV)/.demo
	$(VENV)/bin/bagel-rt demo

# SLOW=1 adds the tests marked slow; CI does. Two processes with a core each; exported artefacts are kept for next time
test: $(VENV)/.dev
	BAGEL_RT_TEST_CACHE=$(abspath $(VENV))/test-artefacts \
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile $(if $(SLOW),,-m "not slow and not bench")

# two replicas and a batch's workers on this machine, some of them killed; Ray takes 0.3 GB, minutes to fetch
ray: $(VENV)/.dev
	$(PIP) -e '.[ray]'
	$(VENV)/bin/python -m pytest -m ray tests/serve/test_ray.py tests/cli/test_ray_batch.py

# every graph on ONNX Runtime's CUDA provider over a CUDA that computes nothing: no GPU, but g++ and 0.3 GB to fetch
STANDIN = $(abspath $(VENV))/cuda-standin
cuda-standin: $(VENV)/.dev
	test -d $(STANDIN)/site || $(VENV)/bin/pip install --quiet --no-deps --target $(STANDIN)/site onnxruntime-gpu==1.31.1
	$(VENV)/bin/python tests/cuda_standin/build.py $(STANDIN)/site/onnxruntime $(STANDIN)/libraries
	BAGEL_RT_CUDA_STANDIN=$(STANDIN) $(VENV)/bin/python -m pytest -m cuda_standin tests/engines/onnxruntime tests/bench

# one folder of at most 64 MiB for a machine with a CUDA card and no network; graphs of the released size take minutes
GPU_PACK = gpu-pack
gpu-pack: $(VENV)/.dev
	PYTHONPATH=$(CURDIR):$(CURDIR)/export:$(CURDIR)/engines $(VENV)/bin/python bench/gpu_pack.py $(GPU_PACK)

# bagel-nano trained from nothing (or FROM=checkpoint), exported and scored; resumable. Hours on two cores
NANO = $(abspath $(VENV))/nano
nano: $(VENV)/.dev
	PYTHONPATH=$(CURDIR):$(CURDIR)/export:$(CURDIR)/engines \
	$(VENV)/bin/python -m bench.nano.make --state $(NANO) $(FROM:%=--from %) $(VAE:%=--vae %)

# the same for a lent card without network: one folder of at most 64 MiB, trained there in calls of ten minutes
nano-pack: $(VENV)/.dev
	PYTHONPATH=$(CURDIR):$(CURDIR)/export:$(CURDIR)/engines \
	$(VENV)/bin/python -m bench.nano.card_pack nano-pack $(FROM:%=--from %)

# which changes of the core no test notices: make mutation, or make mutation GROUPS="kv_cache reader"
MUTATION = $(abspath $(VENV))/mutation
mutation: $(VENV)/.dev
	test -d $(MUTATION)/site || $(VENV)/bin/pip install --quiet -c constraints.txt --target $(MUTATION)/site mutmut==3.8.1
	PYTHONPATH=$(CURDIR):$(CURDIR)/engines:$(CURDIR)/export:$(MUTATION)/site BAGEL_RT_TEST_CACHE=$(abspath $(VENV))/test-artefacts \
	$(VENV)/bin/python -m bench.mutation $(GROUPS) --work $(MUTATION)/work --out bench/results/mutation.json

# what comes from strangers, changed by what it reaches: make fuzz MINUTES=10, or make fuzz TARGETS="picture graph"
MINUTES = 1
FUZZ = $(abspath $(VENV))/fuzz
fuzz: $(VENV)/.dev
	test -d $(FUZZ)/site || $(VENV)/bin/pip install --quiet --no-deps --target $(FUZZ)/site atheris==3.0.0
	PYTHONPATH=$(CURDIR):$(CURDIR)/engines:$(CURDIR)/export:$(FUZZ)/site \
	$(VENV)/bin/python -m bench.fuzz $(TARGETS) --minutes $(MINUTES) --kept $(FUZZ)/kept

# does a process grow that works for long: about half an hour on two cores
drift: $(VENV)/.dev
	PYTHONPATH=$(CURDIR):$(CURDIR)/engines:$(CURDIR)/export $(VENV)/bin/python -m bench.drift

# hashes of what the runtime and its server install, and the oldest versions that pyproject.toml allows
UV = $(VENV)/bin/uv pip compile --quiet pyproject.toml --python-version 3.11 --no-annotate --custom-compile-command "make lock"
lock: $(VENV)/.dev
	test -x $(VENV)/bin/uv || $(VENV)/bin/pip install --quiet uv
	$(UV) --extra cpu --extra serve -c constraints.txt --universal --generate-hashes -o requirements.lock
	$(UV) $(OLDEST:%=--extra %) --resolution lowest-direct -o constraints-oldest.txt

OLDEST = cpu openvino gguf completion sign serve

# does every extra still resolve on every Python: what is found is thrown away
EXTRAS = cpu openvino tensorrt tensorrt-rtx cuda export gguf completion sign serve ray
extras: $(VENV)/.dev
	test -x $(VENV)/bin/uv || $(VENV)/bin/pip install --quiet uv
	for python in 3.11 3.12 3.13 3.14; do for extra in $(EXTRAS); do echo "$$python $$extra"; \
	$(VENV)/bin/uv pip compile --quiet pyproject.toml --extra $$extra --python-version $$python \
	--python-platform x86_64-manylinux_2_28 -o $(VENV)/extras.txt || exit 1; done; done

lint: $(VENV)/.dev
	$(VENV)/bin/ruff format --check . && $(VENV)/bin/ruff check . && $(VENV)/bin/pyright && $(VENV)/bin/lint-imports

# the documentation, as a site of static files in site/
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict
	@echo "site/index.html; with search: $(VENV)/bin/python -m http.server -d site"

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/pip pyproject.toml constraints.txt
	@echo "installing ONNX Runtime and what it needs into $(VENV): about a minute and 0.4 GB, once"
	$(PIP) -e '.[cpu]'
	@touch $@

$(VENV)/.dev: $(VENV)/bin/pip pyproject.toml constraints.txt
	@echo "installing PyTorch for the CPU, the engines and the tools into $(VENV): about 3 minutes and 2.1 GB, once"
	$(PIP) -e '.[cpu,openvino,export,dev]'
	@touch $@

$(VENV)/.docs: $(VENV)/bin/pip pyproject.toml constraints.txt
	$(PIP) -e '.[docs]'
	@touch $@
