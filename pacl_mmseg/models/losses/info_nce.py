"""InfoNCE over image-text compatibilities, over one process or many.

With several processes each holds the compatibilities of its own images with the texts
of all. Only texts, their ids and per-text statistics are communicated, never patch
tokens, which are far larger.
"""

import hashlib
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine import dist
from torch import Tensor, nn
from torch.profiler import record_function

from pacl_mmseg.registry import MODELS
from pacl_mmseg.utils.devices import send

MAX_LOGIT_SCALE = 100.0  # of a learnt one, as CLIP's


@MODELS.register_module()
class InfoNCELoss(nn.Module):
    """Symmetric InfoNCE loss of CLIP (arXiv 2103.00020, figure 3) and PACL.

    The mean of two cross entropies over the global batch of N pairs: of each image
    among all texts, and of each text among all images, with logits
    ``logit_scale * phi``.

    In a run of several processes the returned value is the loss of the global batch
    on every process. Its gradient is the number of processes times that of the
    global loss with respect to this process' ``phi``: averaging over processes, as
    DistributedDataParallel does, then gives the gradient of the global loss.

    Args:
        logit_scale: Factor on the compatibilities, the inverse temperature 1/tau (no
            unit); the initial one if ``learnable``. Sources disagree about PACL's
            temperature, so it is an option; the default is tau = 0.07 fixed.
        learnable: Train the factor's logarithm, as CLIP does. Otherwise the module
            has no parameters.
        mask_duplicates: Do not count a pair's image and a text of the same id as its
            own text as a negative, nor in the accuracies. Needs ``text_ids``.

    Raises:
        ValueError: A scale that is not positive, or an initial scale above a learnable
            one's bound.
    """

    def __init__(
        self,
        logit_scale: float = 1 / 0.07,
        learnable: bool = False,
        mask_duplicates: bool = True,
    ) -> None:
        super().__init__()
        if logit_scale <= 0:
            raise ValueError('logit_scale must be positive.')
        if learnable and logit_scale > MAX_LOGIT_SCALE:
            raise ValueError(
                f'A learnt logit_scale is at most {MAX_LOGIT_SCALE}, not {logit_scale}.'
            )
        self.learnable = learnable
        self.mask_duplicates = mask_duplicates
        if learnable:
            log_scale = torch.tensor(math.log(logit_scale), dtype=torch.float32)
            self.log_logit_scale = nn.Parameter(log_scale)
        else:
            self.fixed_logit_scale = logit_scale

    @property
    def logit_scale(self) -> Tensor | float:
        """Current factor: a float, or a scalar tensor with gradient if learnable."""
        if not self.learnable:
            return self.fixed_logit_scale
        # The parameter itself is clamped, as in CLIP: clamping its exponential would
        # stop the gradient that can bring it back below the bound.
        with torch.no_grad():
            self.log_logit_scale.clamp_(max=math.log(MAX_LOGIT_SCALE))
        return self.log_logit_scale.exp()

    @record_function('loss')
    def forward(
        self, phi: Tensor, text_ids: Tensor | None = None, offset: int = 0
    ) -> dict[str, Tensor]:
        """Loss and retrieval accuracies of a batch.

        Args:
            phi: (B, N) compatibilities of this process' B images with the N texts of
                all processes, in [-1, 1].
            text_ids: (N,) int64, equal where captions are; see :func:`text_ids`.
                None: all differ.
            offset: Index, among the N texts, of this process' first one; image i
                belongs to text ``offset + i``.

        Returns:
            ``{'loss_infonce': ..., 'acc_i2t': ..., 'acc_t2i': ...}``, scalars. The
            accuracies are percentages of the global batch of images (texts) whose
            own text (image) scores above every negative; ties count as misses. If
            the factor is learnable, also its value as ``'logit_scale'``.

        Raises:
            ValueError: Shapes that do not fit, or in a single process B not N.
        """
        images, texts = phi.shape
        world_size = dist.get_world_size()
        if offset < 0 or offset + images > texts or (world_size == 1 < images != texts):
            raise ValueError(
                f'phi of shape {tuple(phi.shape)} does not have a text for each image, '
                f'and an image for each text, at offset {offset}.'
            )
        if text_ids is not None and tuple(text_ids.shape) != (texts,):
            raise ValueError(
                f'text_ids must be of shape {(texts,)}, not {tuple(text_ids.shape)}.'
            )
        with torch.autocast(phi.device.type, enabled=False):
            dtype = torch.promote_types(phi.dtype, torch.float32)
            scale = self.logit_scale
            logits = scale * phi.to(dtype)
            rows = torch.arange(images, device=phi.device)
            columns = rows + offset
            if self.mask_duplicates and text_ids is not None:
                ids = send(text_ids, phi.device)
                duplicates = ids[columns, None] == ids
                duplicates[rows, columns] = False
                logits = logits.masked_fill(duplicates, float('-inf'))
            loss, acc_i2t, acc_t2i = _symmetric_cross_entropy(
                logits, rows, columns, world_size
            )
        result = dict(loss_infonce=loss, acc_i2t=acc_i2t, acc_t2i=acc_t2i)
        if self.learnable:
            result['logit_scale'] = scale.detach()
        return result


def _symmetric_cross_entropy(
    logits: Tensor, rows: Tensor, columns: Tensor, world_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and accuracies of the global batch, from this process' rows of it.

    Args:
        logits: (B, N), -inf where a pair is left out.
        rows: (B,) int64, 0 to B - 1.
        columns: (B,) int64, the column of each row's positive.
        world_size: Number of processes.

    Returns:
        The loss and the two accuracies in percent, scalars; the loss with the
        gradient that :class:`InfoNCELoss` describes.
    """
    texts = logits.shape[1]
    positives = logits[rows, columns]
    with torch.no_grad():
        # new_full runs on the device; a tensor copied there would wait for it.
        negatives = logits.index_put((rows, columns), logits.new_full((), -math.inf))
        # Per column: the best negative and the positive, over all processes.
        best = logits.new_full((2, texts), -math.inf)
        best[0] = negatives.amax(dim=0)
        best[1, columns] = positives
        dist.all_reduce(best, 'max')
        # And its log-sum-exp over them.
        largest = best.amax(dim=0)
        totals = (logits - largest).exp_().sum(dim=0)
        dist.all_reduce(totals, 'sum')
        totals = totals.log_().add_(largest)
        column_terms = totals.sum()
    row_terms = (logits.logsumexp(dim=1) - 2 * positives).sum()
    # The second sum is a constant whose gradient is that of `column_terms`: the softmax
    # over each column, of which every process needs its own rows alone.
    local_loss = (row_terms + (logits - totals).exp().sum()) / (2 * texts)
    with torch.no_grad():
        sums = torch.stack([row_terms, (positives > negatives.amax(dim=1)).sum()])
        dist.all_reduce(sums, 'sum')
        value = (sums[0] + column_terms) / (2 * texts)
        acc_i2t = 100 * sums[1] / texts
        acc_t2i = 100 * (best[1] > best[0]).to(logits.dtype).mean()
    loss = world_size * local_loss
    # In this order it is exactly `value`, the same on all processes.
    return value + (loss - loss.detach()), acc_i2t, acc_t2i


def gather_texts(texts: Tensor, text_ids: Tensor) -> tuple[Tensor, Tensor, int]:
    """Texts and ids of all processes, in the order of their ranks.

    Each process may have another number of texts. If ``texts`` requires a gradient
    (on all processes or on none), each gets the sum of all processes' gradients of
    its own texts; otherwise the result is outside of autograd.

    Args:
        texts: (B, D) embeddings of this process.
        text_ids: (B,) int64 ids of this process, best in the host's memory.

    Returns:
        The (N, D) embeddings and (N,) ids of all processes, where those of this one
        are, and the index of this process' first row in them. In a single process the
        arguments and 0.
    """
    if dist.get_world_size() == 1:
        return texts, text_ids, 0
    # The host has to know the sizes, to lay out what it gathers: once a step it waits
    # here for the device, which by then has the encoders' forward in its queue.
    size = torch.full((1,), len(texts), device=texts.device)
    sizes = torch.cat(dist.all_gather(size)).tolist()
    offset = sum(sizes[: dist.get_rank()])
    ids = _gather_rows(text_ids, sizes)
    everyones = _gather_rows(texts.detach(), sizes)
    behind = everyones[offset + len(texts) :]
    everyones = torch.cat([everyones[:offset], texts, behind])
    if everyones.requires_grad:
        everyones.register_hook(_sum_over_processes)
    return everyones, ids, offset


def _gather_rows(rows: Tensor, sizes: list[int]) -> Tensor:
    """Concatenate tensors whose first dimension on rank r is ``sizes[r]``."""
    # Collectives want equal shapes.
    missing = max(sizes) - len(rows)
    padding = [0, 0] * (rows.dim() - 1) + [0, missing]
    gathered = dist.all_gather(F.pad(rows, padding).contiguous())
    return torch.cat([part[:n] for part, n in zip(gathered, sizes, strict=True)])


def _sum_over_processes(grad: Tensor) -> Tensor:
    """The sum of all processes' gradients of what is the same on all."""
    grad = grad.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(grad, 'sum')
    return grad


def text_ids(captions: Sequence[str]) -> Tensor:
    """Ids of captions by their content, the same in every process and run.

    Args:
        captions: B captions.

    Returns:
        (B,) int64 non-negative ids, equal where captions are, in the host's memory.
        Different captions share one of the 63-bit hashes with negligible probability.
    """
    ids = []
    for caption in captions:
        digest = hashlib.blake2b(caption.encode(), digest_size=8).digest()
        ids.append(int.from_bytes(digest, 'big') >> 1)
    return torch.tensor(ids, dtype=torch.int64)


def distinct(ids: Tensor) -> tuple[Tensor, Tensor]:
    """The different ones among texts of which some may be equal.

    Args:
        ids: (N,) int64, equal where texts are.

    Returns:
        The index of a text of each of the U ids (U,), and for each text the place
        among those of the one equal to it (N,), int64.
    """
    values, places = ids.unique(return_inverse=True)
    last = torch.zeros_like(values)  # place of each one's last occurrence
    last.scatter_reduce_(0, places, torch.arange(len(ids), device=ids.device), 'amax')
    return last, places


def repeat(rows: Tensor, places: Tensor) -> Tensor:
    """Rows (U, ...) once for each of ``places`` (N,).

    As an embedding: its backward adds up equal ones in a fixed order, which that of
    indexing does not.
    """
    return F.embedding(send(places, rows.device), rows)
