# Everything lands below this folder: environments in .venv*, caches in .cache, results in build.
PYTHON ?= python3
OMOKAGE_DATA ?= $(abspath ../shared/data)
export OMOKAGE_DATA
export PIP_CACHE_DIR := $(CURDIR)/.cache/pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export XDG_CACHE_HOME := $(CURDIR)/.cache
export MPLCONFIGDIR := $(CURDIR)/.cache/matplotlib
export RUFF_CACHE_DIR := $(CURDIR)/.cache/ruff
export HYPOTHESIS_STORAGE_DIRECTORY := $(CURDIR)/.cache/hypothesis

.PHONY: demo demo-clips test check prove simsiam encoder detector clean

demo: .venv-demo/ready  ## A name on a video, from what the packages bring (no camera, no download)
	.venv-demo/bin/python device/demo.py --out build/demo

demo-clips: .venv-demo/ready  ## The same on the clips of $OMOKAGE_DATA
	.venv-demo/bin/python device/demo.py --clips "$(OMOKAGE_DATA)" --out build/demo-clips

test: .venv/ready  ## All tests
	.venv/bin/python -m pytest

check: .venv/ready  ## Style, types, import rules
	.venv/bin/ruff check .
	.venv/bin/shellcheck device/install.sh convert/install_compiler.sh
	.venv/bin/mypy
	.venv/bin/lint-imports --cache-dir .cache/import_linter

prove: .venv/ready  ## Every figure of docs/results.md again, from the shipped bundle and $OMOKAGE_DATA
	.venv/bin/python benchmarks/first_light.py --data "$(OMOKAGE_DATA)" --out build/prove

# The label-free encoder again, in about two hours on two cores: SimSiam at 64x64, then with harder views, then at 112x112,
# then 8 bits. Steps that are done are left alone, one that broke off goes on.
CROPS := $(addprefix $(OMOKAGE_DATA)/crops/,utkface.zip aaf.zip celeba10k.zip)
COHORT := $(OMOKAGE_DATA)/crops/cohort.txt
LFW := $(OMOKAGE_DATA)/lfw
SIMSIAM := --crops $(CROPS) --without $(COHORT) --batch 128 --precision mixed_bfloat16 --warmup 0.05 \
	--probe-crops $(LFW)/crops.zip --probe-pairs $(LFW)/pairsDevTest.txt
HARD := --area 0.2 --strength 1.0
RESEARCH := research and non-commercial use (the training pictures are of UTKFace, All-Age-Faces and CelebA)
pretrain = test -f $(@D)/config.toml && R="--resume $(@D)" || R="--out $(@D) $(SIMSIAM) $(1)"; \
	.venv/bin/python train/pretrain.py $$R && touch $@

simsiam: build/simsiam-fused/manifest.json  ## Train the label-free encoder again (build/simsiam-fused)

runs/simsiam-64/done: | .venv/ready
	$(call pretrain,--size 64 --epochs 9 --rate 0.5 --area 0.25 --projection 512)

runs/simsiam-64b/done: runs/simsiam-64/done
	$(call pretrain,--size 64 --epochs 6 --rate 0.5 $(HARD) --init $(<D))

runs/simsiam-112/done: runs/simsiam-64b/done
	$(call pretrain,--size 112 --epochs 3 --rate 0.25 $(HARD) --init $(<D))

build/simsiam-fused/manifest.json: runs/simsiam-112/done
	.venv/bin/python convert/quantize.py --encoder $(<D)/encoder.keras --crops $(CROPS) --cohort $(COHORT) --lfw $(LFW) \
	    --out $(@D) --licence "$(RESEARCH)" --source "$$(git describe --always --dirty)" --recipe "make simsiam"

# The default encoder again: that SimSiam start, distilled from dlib's face model without labels, at 64x64, at 112x112, and
# longer with smaller batches, then 8 bits. The teacher's embeddings take a quarter of an hour, an epoch at 112x112 five to seven minutes.
UNLABELLED := $(CROPS) $(OMOKAGE_DATA)/crops/celeba_id.zip
TAUGHT := distilled, without labels, from dlib's face recognition model (ResNet-29 by Davis King, CC0), which its author trained with labels on about 3 million faces
DISTIL := --objective distill --teacher dlib --cache runs/teacher --crops $(UNLABELLED) --without $(COHORT) --precision mixed_bfloat16 \
	--rate 3e-3 --probe-crops $(LFW)/crops.zip --probe-pairs $(LFW)/pairsDevTest.txt
finetune = test -f $(@D)/config.toml && R="--resume $(@D)" || R="--out $(@D) $(DISTIL) $(1)"; \
	.venv/bin/python train/finetune.py $$R && touch $@

encoder: build/omokage-s/manifest.json  ## Train the default encoder again (build/omokage-s)

runs/distil-64/done: runs/simsiam-112/done
	$(call finetune,--init $(<D) --size 64 --epochs 3 --area 0.8 --rotation 10 --strength 0.4 --erase 0.1)

runs/distil-112/done: runs/distil-64/done
	$(call finetune,--init $(<D) --epochs 10 --warmup 0.02 --area 0.85 --rotation 8 --strength 0.3 --erase 0)

runs/distil-long/done: runs/distil-112/done
	$(call finetune,--init $(<D) --batch 64 --epochs 16 --rate 2e-3 --warmup 0.02 --area 0.85 --rotation 8 --strength 0.3 --erase 0)

build/omokage-s/manifest.json: runs/distil-long/done
	.venv/bin/python convert/quantize.py --encoder $(<D)/encoder.keras --crops $(UNLABELLED) --cohort $(COHORT) --lfw $(LFW) \
	    --out $(@D) --licence "$(RESEARCH)" --source "$$(git describe --always --dirty)" --recipe "make encoder" --taught "$(TAUGHT)"

# The face detector, taught by YuNet: hours on two cores. Not good enough to ship yet (docs/detector.md).
DETECTOR := --photos $(OMOKAGE_DATA)/wild.zip --empty $(OMOKAGE_DATA)/noface.zip --crops-every 12 \
	--crops $(addprefix $(OMOKAGE_DATA)/crops/,utkface.zip aaf.zip) --without $(OMOKAGE_DATA)/noface_test.txt $(COHORT) \
	--teacher $(OMOKAGE_DATA)/detectors/yunet_n_dynamic.onnx --cache runs/faces --precision mixed_bfloat16
faces = test -f $(@D)/config.toml && R="--resume $(@D)" || R="--out $(@D) $(DETECTOR) $(1)"; \
	.venv/bin/python train/detector/distil.py $$R && touch $@

detector: build/omokage-detector/manifest.json  ## Train the face detector (build/omokage-detector)

runs/detector-a/done: | .venv/ready
	$(call faces,--height 192 --width 256 --epochs 24)

runs/detector/done: runs/detector-a/done
	$(call faces,--init $(<D) --scenes 8192 --epochs 120 --warmup 0.01)

build/omokage-detector/manifest.json: runs/detector/done
	.venv/bin/python convert/detector.py --run $(<D) --out $(@D) --licence "$(RESEARCH)" \
	    --source "$$(git describe --always --dirty)" --recipe "make detector"

.venv-demo/ready: pyproject.toml
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/pip install --quiet --editable .[device,demo]
	touch $@

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --editable .[dev]
	touch $@

clean:
	rm -rf .venv .venv-demo .cache build
