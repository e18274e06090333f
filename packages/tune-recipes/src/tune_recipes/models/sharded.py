"""Tensors that may be split over processes by rows: what is here, and how to get them whole.

FSDP turns a parameter into a DTensor, which is asked for by its methods and not by its type: to import
DTensor costs a second and a half, which a process that only answers questions need not pay.
"""

from torch import Tensor


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor gathered from all processes that hold a part of it; every process must call it."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor.detach() if gather is None else gather().detach()


def local_part(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor, to be read or filled."""
    to_local = getattr(tensor, "to_local", None)
    return tensor.detach() if to_local is None else to_local().detach()


def rows_here(tensor: Tensor) -> slice:
    """Return which rows of a tensor this process holds: all, or those that FSDP gave it."""
    num_rows = tensor.shape[0]
    mesh = getattr(tensor, "device_mesh", None)
    if mesh is None:
        return slice(0, num_rows)
    share = -(-num_rows // mesh.size())  # as torch.chunk cuts: equal shares, the last ones smaller or empty
    begin = min(mesh.get_local_rank() * share, num_rows)
    return slice(begin, min(begin + share, num_rows))
