"""lightly's SimSiam (PyTorch) on the encoder of train/encoders.py, in an environment of its own; benchmarks/pretraining_speed.py runs it.

  python -m venv build/lightly-env && build/lightly-env/bin/pip install lightly
  build/lightly-env/bin/python benchmarks/lightly_simsiam.py --crops crops.npy --size 64 --width 0.5 --batch 128

lightly's transform, heads and loss as its example trains SimSiam; crops.npy: uint8 RGB [N, 112, 112, 3]. It tries float32 and bfloat16,
both memory layouts, and 0 to 2 loader processes, tells its best as one JSON line, and then answers each line on stdin, a number of
batches, with the seconds that so many took.
"""

import argparse
import itertools
import json
import sys
import time

import numpy as np
import torch
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules import SimSiamPredictionHead, SimSiamProjectionHead
from lightly.transforms import SimSiamTransform
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

TRIED = 6  # batches of each setting


class Crops(Dataset):
    def __init__(self, crops, size):
        self.crops, self.transform = crops, SimSiamTransform(input_size=size)

    def __len__(self):
        return len(self.crops)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.crops[index]))


def conv(inputs, channels, kernel, stride=1, active=True, groups=1, padding=None):
    around = kernel // 2 if padding is None else padding
    layers = [nn.Conv2d(inputs, channels, kernel, stride, around, groups=groups, bias=False), nn.BatchNorm2d(channels)]
    return nn.Sequential(*layers, *([nn.ReLU6(inplace=True)] if active else []))


class Block(nn.Module):
    def __init__(self, inputs, channels, expand, stride):
        super().__init__()
        self.layers = nn.Sequential(conv(inputs, expand * inputs, 3, stride), conv(expand * inputs, channels, 1, active=False))
        self.residual = stride == 1 and inputs == channels

    def forward(self, x):
        return x + self.layers(x) if self.residual else self.layers(x)


def fused(width, size, dimension=128):
    """The family `fused` of train/encoders.py, layer by layer."""

    def channels(base):
        return max(8, int(base * width / 8 + 0.5) * 8)

    at = channels(24)
    layers = [conv(3, at, 3, 2)]
    for base, blocks in ((48, 2), (80, 3), (128, 3)):
        for block in range(blocks):
            layers.append(Block(at, channels(base), 2 if block else 4, 1 if block else 2))
            at = channels(base)
    wide, kernel = channels(256), size // 16
    layers += [conv(at, wide, 1), conv(wide, wide, kernel, active=False, groups=wide, padding=0), nn.Conv2d(wide, dimension, 1)]
    return nn.Sequential(*layers, nn.Flatten())


class SimSiam(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.encoder = fused(args.width, args.size)
        self.projector = SimSiamProjectionHead(128, args.projection, args.projection)
        self.predictor = SimSiamPredictionHead(args.projection, args.projection // 4, args.projection)

    def forward(self, x):
        z = self.projector(self.encoder(x))
        return z.detach(), self.predictor(z)


def batches(crops, args, workers):
    more = {"num_workers": workers, "persistent_workers": workers > 0}
    loader = DataLoader(Crops(crops, args.size), args.batch, shuffle=True, drop_last=True, **more)
    return itertools.chain.from_iterable(loader for _ in itertools.count())


def trainer(args, bfloat16, channels_last):
    """A function that trains on a pair of views."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = SimSiam(args).to(memory_format=layout).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05 * args.batch / 256, momentum=0.9, weight_decay=1e-4)
    criterion = NegativeCosineSimilarity()

    def train(views):
        view1, view2 = (view.to(memory_format=layout) for view in views)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            (z1, p1), (z2, p2) = model(view1), model(view2)
        loss = 0.5 * (criterion(p1.float(), z2.float()) + criterion(p2.float(), z1.float()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return train


def seconds(train, source, count):
    start = time.perf_counter()
    for _ in range(count):
        train(next(source))
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crops", required=True)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--width", type=float, default=0.5)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--projection", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    crops = np.load(args.crops)
    fixed = [tuple(view.clone() for view in next(batches(crops, args, 0))[:2])]
    steps = {}
    for bfloat16, channels_last in itertools.product((False, True), repeat=2):
        train = trainer(args, bfloat16, channels_last)
        seconds(train, itertools.cycle(fixed), 2)
        steps[bfloat16, channels_last] = seconds(train, itertools.cycle(fixed), TRIED)
    best = min(steps, key=steps.get)
    train, tried = trainer(args, *best), {}
    for workers in (0, 1, 2):
        source = batches(crops, args, workers)
        seconds(train, source, 2)
        tried[workers] = seconds(train, source, TRIED)
    workers = min(tried, key=tried.get)
    source = batches(crops, args, workers)
    seconds(train, source, 2)
    names = {pair: f"{'bfloat16' if pair[0] else 'float32'}{', channels_last' if pair[1] else ''}" for pair in steps}
    pictures = TRIED * args.batch
    told = {
        "versions": {"torch": torch.__version__, "lightly": __import__("lightly").__version__},
        "precision": names[best],
        "workers": workers,
        "step_only": {names[pair]: pictures / spent for pair, spent in steps.items()},
        "by_workers": {str(number): pictures / spent for number, spent in tried.items()},
        "parameters": sum(p.numel() for p in fused(args.width, args.size).parameters()),
    }
    print(json.dumps(told), flush=True)
    for line in sys.stdin:
        print(json.dumps(seconds(train, source, int(line))), flush=True)


if __name__ == "__main__":
    main()
