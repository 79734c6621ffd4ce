"""OpenVINO: the fastest engine on a CPU (540 images/s in bf16 where eager PyTorch ran 22, lite0 at 224 px, 2 cores).

A backbone is converted once, through torch, into OpenVINO's IR (an XML file and the weights in fp32) and kept by
fingerprint, beside its PyTorch weights for the bundle; from then on torch is not needed. Execution is in throughput
mode: one stream and one infer request a thread, small chunks that stay in the cache of the CPU.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from blake3 import blake3
from numpy.typing import NDArray

from regraft.errors import BackboneError
from regraft.features.engines import Choice, Engine, Session, num_cores
from regraft.files import sync
from regraft.models.backbones import Backbone

# OpenVINO fills its tables of types when they are first asked; two threads that ask at once wait for each other and for
# Python's lock, for ever: 4 of 23 processes hung (openvino 2026.4), and none of 60 where one thread had asked before.
ov.Type.u8.to_dtype()
ov.Tensor(np.zeros(1, np.uint8))

CHUNK = 4
_PRECISIONS = {"fp32": "f32", "bf16": "bf16"}
_MAX_RELATIVE_ERROR = 1e-3


def open_openvino(backbone: Backbone, *, choice: Choice, size: int, cache_dir: Path) -> Engine:
    """Compile a backbone for this CPU, converting it first where no IR is at hand."""
    folder = backbone.ir if backbone.ir is not None else ir_folder(backbone, size=size, cache_dir=cache_dir)
    threads = num_cores()
    settings = {
        "INFERENCE_PRECISION_HINT": _PRECISIONS[choice.precision],
        "PERFORMANCE_HINT": "THROUGHPUT",
        "NUM_STREAMS": threads,
        "INFERENCE_NUM_THREADS": threads,
    }
    try:
        try:
            # The compiled model is kept too: compiling takes longer than reading it back.
            compiled = _compile(folder, size, settings, kept_in=cache_dir / "compiled")
        except RuntimeError:  # a cache that cannot be written is no reason not to predict
            compiled = _compile(folder, size, settings, kept_in=None)
        width = list(compiled.output(0).shape)
    except (RuntimeError, ValueError) as error:
        raise BackboneError(
            f"a converted backbone must be as it was written: {str(folder)!r} cannot be opened "
            f"({' '.join(str(error).split())[-160:]}); delete that folder, or use --engine torch"
        ) from None
    if width != [CHUNK, backbone.num_features]:
        raise BackboneError(
            f"the backbone {backbone.name} must give {backbone.num_features} features: "
            f"{str(folder)!r} gives {width[1:]}"
        )

    def session() -> Session:
        request = compiled.create_infer_request()

        def forward(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            request.infer([pixels], share_inputs=True)
            return np.array(request.get_output_tensor(0).data, np.float32)

        return forward

    return Engine(
        name="openvino", precision=choice.precision, device="cpu", reason=choice.reason, chunk=CHUNK,
        num_threads=threads, session=session,
    )  # fmt: skip


def _compile(folder: Path, size: int, settings: dict[str, Any], *, kept_in: Path | None) -> ov.CompiledModel:
    core = ov.Core()
    if kept_in is not None:
        core.set_property({"CACHE_DIR": str(kept_in)})
    model = core.read_model(folder / "model.xml")
    model.reshape([CHUNK, size, size, 3])
    return core.compile_model(model, "CPU", settings)


def ir_folder(backbone: Backbone, *, size: int, cache_dir: Path) -> Path:
    """The folder of the backbone's IR in the cache, converting it now where it is not there yet."""
    transform = backbone.transform
    what = f"{backbone.name}|{backbone.weights_hash}|{size}|{transform.mean}|{transform.std}|{ov.__version__}|1"
    if backbone.features_from is not None:
        what += f"|{backbone.features_from}"
    plain = re.sub(r"[^\w.+-]", "-", backbone.name)[:60]  # names hold slashes and colons
    folder = cache_dir / "ir" / f"{plain}-{blake3(what.encode()).hexdigest()[:20]}"
    if not (folder / "model.xml").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".tmp-", dir=folder.parent))
        try:
            _convert(backbone, size, aside)
            for file in aside.iterdir():
                sync(file)
            try:
                aside.rename(folder)
            except OSError:  # another process was faster; the content is the same
                if not (folder / "model.xml").is_file():
                    raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return folder


def _convert(backbone: Backbone, size: int, folder: Path) -> None:
    """Trace the backbone, with its normalisation, into IR, and check it against PyTorch on random pixels.

    The PyTorch frontend is called directly: the convenience `convert_model` would report each call to its vendor.
    """
    import torch
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
    from safetensors.torch import save_file

    from regraft.features.engines.torch import PixelBackbone

    trunk = backbone.build()
    module = PixelBackbone(trunk, backbone.transform).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    try:
        with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore")  # the tracer is deprecated, and warns of every branch on a shape
            decoder = TorchScriptPythonDecoder(module, example_input=torch.from_numpy(pixels))
            frontend = FrontEndManager().load_by_framework("pytorch")
            model: Any = frontend.convert(frontend.load(decoder))
        model.reshape([-1, size, size, 3])
        ov.save_model(model, folder / "model.xml", compress_to_fp16=False)
    except Exception as error:
        raise BackboneError(
            f"the backbone {backbone.name} cannot be converted for OpenVINO "
            f"({str(error).strip().splitlines()[0][:160]}); use --engine torch"
        ) from error
    save_file({k: v.contiguous() for k, v in trunk.state_dict().items()}, folder / "backbone.safetensors")
    model.reshape([2, size, size, 3])
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    with torch.no_grad():
        expected = module(torch.from_numpy(pixels)).numpy()
    error_ = float(np.abs(compiled([pixels])[0] - expected).max() / max(float(np.abs(expected).max()), 1e-6))
    if not error_ <= _MAX_RELATIVE_ERROR:
        raise BackboneError(
            f"a converted backbone must compute what PyTorch computes: {backbone.name} is off by {error_:.1e} "
            f"(limit {_MAX_RELATIVE_ERROR:.0e}); use --engine torch"
        )
