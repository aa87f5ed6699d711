"""The largest magnitude of every input channel of every linear layer, over calibration text."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from csaq_export.calibration import Calibration
from csaq_export.layered_model import LayeredModel

Report = Callable[[str, int, int], None]
_PREFIX = "model.layers."
_BATCH = 4


@torch.no_grad()
def input_peaks(
    model: LayeredModel, calibration: Calibration, device: torch.device, report: Report
) -> dict[str, Tensor]:
    """max |x| by GGUF name of the matrix, float32 [n_in]; one layer is in memory at a time."""
    decoder = model.decoder(calibration.tokens.shape[1], device)
    by_source = {slot.source: name for name, slot in model.slots.items()}
    peaks: dict[str, Tensor] = {}
    with decoder.placed(decoder.embedding, device):
        batches = torch.split(calibration.tokens, _BATCH)
        hidden = [decoder.embedding(tokens.to(device)).cpu() for tokens in batches]
    for index, layer in enumerate(decoder.layers):
        report("measuring inputs", index, len(decoder.layers))
        linears = {n: m for n, m in layer.named_modules() if isinstance(m, nn.Linear)}
        names = {n: by_source[f"{_PREFIX}{index}.{n}.weight"] for n in linears}
        hooks = [m.register_forward_hook(_watch(peaks, names[n])) for n, m in linears.items()]
        try:
            with decoder.placed(layer, device):
                hidden = [decoder.run_layer(index, h.to(device)).cpu() for h in hidden]
        finally:
            for hook in hooks:
                hook.remove()
    return peaks


def _watch(peaks: dict[str, Tensor], name: str) -> Callable[..., None]:
    def on_forward(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        largest = args[0].detach().float().abs().flatten(0, -2).amax(0).cpu()
        peaks[name] = torch.maximum(peaks[name], largest) if name in peaks else largest

    return on_forward
