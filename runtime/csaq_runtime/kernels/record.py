"""Memory layout of what one step reads: NumPy record types shared by Python and jitted code.

`table.py` fills `LAYER` and `LINEAR` once per model, `step.py` a `STEP` per call, `batch.py` its
`ROW`s and `TILE`s. Every field is an int64 address, byte count or element count unless it is a
float32 factor. `pad` in a name means: rounded up so that vectors of 16 fit, the rest being zeros.
"""

import numpy as np

TILE_TOKENS = 8
"""Tokens that are packed together; see `kernels/activation.py`."""

GROUPS_TOGETHER, TOKENS_TOGETHER = 16, 64
STORED_ROW = 64 * GROUPS_TOGETHER
STORED_BYTES = TOKENS_TOGETHER * STORED_ROW
"""Products of some groups of a mixed matrix, before they go to their places."""

MIXED_SCRATCH_BYTES = 2 * STORED_BYTES + 64
"""Two such areas, and the sums of an outlier row."""

INPUT = np.dtype(
    [
        ("quantize", np.int64),  # address of the kernel that packs rows
        ("n_col", np.int64),
        ("tile_bytes", np.int64),  # packed bytes of 8 tokens
        ("columns", np.int64),  # int32 [n_col]: the columns to take; 0: all
    ],
    align=True,
)
"""One packed copy of rows that linear layers read: number `slot` in their table of inputs."""

INPUTS = np.dtype([("table", np.int64), ("n_slot", np.int64)], align=True)
"""`INPUT`s of linear layers that read the same rows."""

LINEAR = np.dtype(
    [
        ("weight", np.int64),  # address of the packed matrix
        ("matmul", np.int64),  # address of its kernel
        ("n_col", np.int64),
        ("n_group", np.int64),  # groups of 16 rows
        ("slot", np.int64),  # which packed copy of the input it reads
        ("tickets", np.int64),  # address of an int64, 0 at first: see `kernels/pieces.py`
        ("bias", np.int64),  # address of float32 [16 · n_group]; 0: neither bias nor scale
        ("scale", np.float32),  # multiplies the product before the bias is added
        ("mixed", np.int64),  # address of a MIXED, which then says all this but the groups of y
    ],
    align=True,
)

PART = np.dtype(
    [
        ("weight", np.int64),
        ("matmul", np.int64),
        ("n_col", np.int64),
        ("first_group", np.int64),  # of the groups of all parts
        ("n_group", np.int64),
        ("slot", np.int64),
        ("tile_bytes", np.int64),  # packed bytes of 8 tokens
    ],
    align=True,
)
"""Stored rows of one type."""

MIXED = np.dtype(
    [
        ("parts", np.int64),  # PART [n_part]
        ("n_part", np.int64),
        ("n_stored", np.int64),  # rows of all parts, each padded to whole groups
        ("places", np.int64),  # int32 [n_stored]: the element of y, -1 for padding
        ("n_outlier", np.int64),  # 0: there are none
        ("offsets", np.int64),  # int64 [n_stored + 1]
        ("columns", np.int64),  # int32 [n_outlier]
        ("values", np.int64),  # float32 [n_outlier]
        ("float_slot", np.int64),  # the copy of the input that is float32
        ("float_tile_bytes", np.int64),
        ("has_factor", np.int64),
        ("factor", PART),
    ],
    align=True,
)
"""A matrix of the rows layout; see `kernels/mixed.py`."""

LAYER = np.dtype(
    [
        ("attn_norm", np.int64),
        ("ffn_norm", np.int64),
        ("q_norm", np.int64),  # 0: queries and keys are not normalized
        ("k_norm", np.int64),
        ("q", LINEAR),
        ("k", LINEAR),
        ("v", LINEAR),
        ("o", LINEAR),
        ("gate", LINEAR),
        ("up", LINEAR),
        ("down", LINEAR),
        ("qkv_inputs", INPUTS),
        ("o_inputs", INPUTS),
        ("gate_up_inputs", INPUTS),
        ("down_inputs", INPUTS),
    ],
    align=True,
)

ROW = np.dtype(
    [
        ("position", np.int64),  # of the token in its sequence
        ("keys", np.int64),  # the sequence's cache: [n_layer][n_head_kv][head bytes] each
        ("values", np.int64),
    ],
    align=True,
)
"""One token of a batch."""

TILE = np.dtype([("token", np.int64), ("n_token", np.int64)], align=True)
"""Successive tokens of one sequence that attend together, and no more than `n_together`."""

STEP = np.dtype(
    [
        # the batch
        ("n_token", np.int64),
        ("rows", np.int64),  # ROW [n_token]
        ("tiles", np.int64),  # TILE [n_tile]
        ("n_tile", np.int64),
        ("first_output", np.int64),  # logits are wanted from this token of the batch on
        ("first_tile", np.int64),  # and from this tile on
        # passes over the weights, each after the first for the token that the last one chose
        ("n_pass", np.int64),
        ("n_choice", np.int64),  # logits to choose from; 0: nothing is chosen
        ("choices", np.int64),  # int64 [n_pass]: what was chosen
        ("confidences", np.int64),  # float32 [n_pass]: probability of it
        ("sureness", np.float32),  # their product, 1 to begin with
        ("least_sureness", np.float32),  # below this no more passes are made
        ("choice_inputs", np.int64),  # float16 [n_choice][x_bytes / 4]: see `kernels/passes.py`
        ("state_scale", np.int64),  # float32 [x_bytes / 4]
        ("attention", np.int64),  # address of `attention_layer.py`'s machine code
        # threads
        ("n_thread", np.int64),
        ("counter", np.int64),  # address of the barrier's counter
        ("first_meeting", np.int64),  # its value when all have arrived for the first time
        # the model
        ("n_layer", np.int64),
        ("layers", np.int64),
        ("output_norm", np.int64),
        ("output", LINEAR),
        ("output_inputs", INPUTS),
        ("n_embd", np.int64),
        ("n_head", np.int64),
        ("n_head_kv", np.int64),
        ("head_dim", np.int64),
        ("head_pad", np.int64),
        ("epsilon", np.float32),
        ("attention_scale", np.float32),
        ("rope", np.int64),  # float32 [n_ctx][cosines of half a head, sines]
        # the caches, all of one shape
        ("cached_head_bytes", np.int64),
        ("cached_row_bytes", np.int64),  # of one position of a head
        ("cache_kind", np.int64),  # see `kernels/cached.py`
        # activations shared by the threads: float32 [n_token][row bytes]
        ("x", np.int64),
        ("q", np.int64),
        ("k", np.int64),
        ("v", np.int64),
        ("attended", np.int64),
        ("gate", np.int64),
        ("up", np.int64),
        ("projected", np.int64),
        ("logits", np.int64),
        ("packed", np.int64),
        ("x_bytes", np.int64),
        ("q_bytes", np.int64),
        ("kv_bytes", np.int64),
        ("attended_bytes", np.int64),
        ("ff_bytes", np.int64),
        ("logits_bytes", np.int64),
        ("slot_bytes", np.int64),
        # scratch of each thread
        ("scratch", np.int64),
        ("scratch_bytes", np.int64),
        ("scratch_packed", np.int64),  # offsets from a thread's scratch
        ("scratch_slot_bytes", np.int64),
        ("scratch_scores", np.int64),
        ("scratch_score_bytes", np.int64),
        ("scratch_totals", np.int64),
        ("scratch_queries", np.int64),
        ("scratch_gathered", np.int64),  # rows of `gathered_bytes`: a factor's columns
        ("gathered_bytes", np.int64),
        ("scratch_stored", np.int64),  # see `kernels/mixed.py`
    ],
    align=True,
)
