"""Which thread multiplies which rows: pieces of a matrix, taken one after the other.

Cores are not equally fast at every moment, least of all where other machines share them. So each
thread takes one large piece, and whoever is done first takes the small ones that are left. Which
thread takes a piece changes no number in it.
"""

from typing import Any

from csaq_runtime.kernels.barrier import fetch_add
from csaq_runtime.kernels.jit import part


@part
def take_piece(tickets: int, n_group: int, n_thread: int) -> Any:
    """(first, end) of the groups of 16 rows to multiply next; first is `n_group` for none.

    `tickets` is the address of the matrix's int64. Every thread must ask until there are none,
    and all must meet before the matrix is used again: after `n_piece + n_thread` tickets, the
    last one of each thread being in vain, numbers begin anew and nobody has to reset them.
    """
    large = 3 * n_group // (4 * n_thread)
    small = max(1, n_group // (32 * n_thread))
    n_small = (n_group - n_thread * large + small - 1) // small
    ticket = fetch_add(tickets, 1) % (2 * n_thread + n_small)
    if ticket < n_thread:
        return ticket * large, (ticket + 1) * large
    first = min(n_group, n_thread * large + (ticket - n_thread) * small)
    return first, min(n_group, first + small)
