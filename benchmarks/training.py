"""The epochs of training runs as a Markdown table, from their metrics.jsonl.

python benchmarks/training.py runs/simsiam-64 runs/simsiam-112
"""

import argparse
import json
import sys
from pathlib import Path

from device.program import Parser, run
from train import runs

SHOWN = ("size", "area", "strength", "rate", "batch")


def table(folder: Path) -> str:
    source = runs.Run.open(folder)
    told = ", ".join(f"{name} {source.config[name]}" for name in SHOWN if name in source.config)
    start = f", from {Path(source.config['init']).name}" if source.config.get("init") else ""
    columns = ("epoch", "loss", "std (healthy)", "rank", "LFW dev", "AUC", "images/s")
    lines = [f"**{folder.name}**: {told}{start}", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        gauge = f"{row['std']:.4f} ({row['std_healthy']:.4f})"
        probe = f"{row['accuracy']:.2%} | {row['auc']:.4f}" if "accuracy" in row else " | "
        rank = f"{row['effective_rank']:.1f}" if "effective_rank" in row else ""  # asked every --probe-every epochs
        lines.append(f"| {row['epoch']} | {row['loss']:.4f} | {gauge} | {rank} | {probe} | {row['images_per_second']:.0f} |")
    return "\n".join(lines) + "\n"


def _main(args: argparse.Namespace) -> int:
    print("\n".join(table(folder) for folder in args.runs))
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders of train/pretrain.py")
    return run(_main, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
