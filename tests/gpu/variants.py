"""What else a job file can ask of training: on a GPU, the same bits twice and resumed."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distlth.config.schema import RunConfig
from distlth.data.dataset import Dataset
from tests.gpu.exact import same_bits, train
from tests.gpu.lines import Options, check, expect, main
from tests.gpu.work import job_config, photos

Keys = dict[str, Any]
BF16: Keys = {"amp": "bf16"}
ATTENTION: Keys = {"amp": "bf16", "optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.05}
GROWING: Keys = {"data": {"resize": {"start": 32, "from_epoch": 0, "to_epoch": 1, "multiple": 32}}}


@dataclass(frozen=True)
class Variant:
    """A network, what its training is asked for, and other sections of the job file."""

    model: str
    train: Keys = field(default_factory=dict)
    more: Keys = field(default_factory=dict)
    resolution: int = 64

    @property
    def name(self) -> str:
        """What its line is called."""
        words = {**self.train, **{key: value for part in self.more.values() for key, value in part.items()}}
        return " ".join([self.model, *(f"{key}={value}" for key, value in words.items() if key != "resize")])

    def config(self, data: Dataset, folder: Path, **train: Any) -> RunConfig:
        """Return its job file; `train` replaces some of its keys."""
        asked = {**self.train, **train}
        return job_config(data, folder, self.model, self.resolution, self.more, **asked)


VARIANTS = (
    Variant("resnet18", BF16, {"data": {"shuffle": "lanes", "cache": "process"}}),
    Variant("resnet18", BF16, GROWING),
    Variant("resnet18", {}, {"data": {"jitter": {"brightness": 0.4, "hue": 0.1}}}),
    Variant("resnet18", BF16, {"model": {"blurpool": True}}),
    Variant("vit_b_16", ATTENTION, {"prune": {"layers": "conv+linear"}}, 224),
    Variant("swin_t", ATTENTION, {"prune": {"layers": "conv+linear"}}, 224),
    Variant("resnet18", {**BF16, "compile": True}, GROWING),
)
# VGG has dropout, fp16 a scaler, and the growing images two graphs.
CAPTURED = (
    Variant("resnet18", BF16, GROWING),
    Variant("resnet18", {"amp": "fp16", "label_smoothing": 0.1, "clip_norm": 1.0}),
    Variant("vgg16", {}),
    Variant("vit_b_16", ATTENTION, {"prune": {"layers": "conv+linear"}}, 224),
    Variant("resnet18", {**BF16, "compile": True}),
)


def variants(options: Options) -> None:
    """Train each twice and resumed; those as CUDA graphs also without: the same weights."""
    with tempfile.TemporaryDirectory() as folder:
        data = photos(Path(folder), options.size(192, 160), 96)

        def home() -> Path:
            return Path(tempfile.mkdtemp(dir=folder))

        for captured in CAPTURED[: options.size(len(CAPTURED), 1)]:
            with check(f"CUDA graph: {captured.name}") as said:
                eager = train(captured.config(data, home()), data, options, home())
                graphed = captured.config(data, home(), cuda_graph=True)
                found = same_bits(graphed, data, options, home())
                said.append(f"{found}, again and resumed")
                expect(found == eager, f"without a graph {eager}")
        for variant in VARIANTS[: options.size(len(VARIANTS), 1)]:
            with check(variant.name) as said:
                found = same_bits(variant.config(data, home()), data, options, home())
                said.append(f"{found}, again and resumed")


if __name__ == "__main__":
    main(variants)
