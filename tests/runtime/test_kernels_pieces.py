"""Threads that take pieces of a matrix multiply each of its groups once, whenever it is used."""

import numba
import numpy as np
import pytest

from csaq_runtime.buffers import address
from csaq_runtime.kernels.pieces import take_piece


@numba.njit
def taken(tickets: int, n_group: int, n_thread: int, pieces: np.ndarray) -> None:
    """Fill `pieces` [n, 2] with what `take_piece` gives in turn."""
    for index in range(len(pieces)):
        pieces[index] = take_piece(tickets, n_group, n_thread)


@pytest.mark.parametrize("n_thread", [1, 2, 3, 8])
@pytest.mark.parametrize("n_group", [1, 2, 7, 56, 352])
def test_every_group_is_in_one_piece_each_time(n_group: int, n_thread: int) -> None:
    tickets = np.zeros(1, np.int64)
    pieces = np.zeros((4 * n_group + 4 * n_thread, 2), np.int64)
    taken(address(tickets), n_group, n_thread, pieces)
    n_piece = int(np.argmax(pieces[:, 0] == n_group))
    in_vain = pieces[n_piece : n_piece + n_thread]
    again = pieces[n_piece + n_thread :][:n_piece]
    groups = [group for first, end in pieces[:n_piece] for group in range(first, end)]
    assert groups == list(range(n_group))
    assert (in_vain[:, 0] == n_group).all()
    assert (again == pieces[:n_piece]).all()
