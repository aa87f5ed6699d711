"""Calibration statistics → Imatrix: Σx² of every linear layer's inputs."""

from csaq_export.guidance import Guidance
from csaq_export.imatrix.matrix import Entry, Imatrix
from csaq_export.sensitivity import linear_places
from csaq_export.statistics import HEAD, LinearStatistics, Statistics


def collected_imatrix(guidance: Guidance) -> Imatrix:
    """The imatrix of a calibrated model; the output matrix (or tied embedding) included."""
    n_layer = int(guidance.model.model.config.num_hidden_layers)
    statistics = Statistics(guidance.work, guidance.fingerprint, n_layer)
    places = linear_places(guidance.model, statistics)
    places["token_embd.weight" if guidance.model.tied else "output.weight"] = (HEAD, "")
    entries = {name: _entry(statistics.of_one(*place)) for name, place in places.items()}
    n_window, n_token = guidance.calibration.tokens.shape
    return Imatrix(entries, (guidance.calibration.dataset,), n_window, n_token)


def _entry(linear: LinearStatistics) -> Entry:
    return Entry(linear.input_square.float().numpy(), float(linear.n_token))
