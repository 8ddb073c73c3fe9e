"""Tests of the InfoNCE loss, in one process and in several."""

import math
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss
from processes import ranks
from torch import Tensor, nn
from torch.distributed import (
    all_gather,
    all_reduce,
    destroy_process_group,
    init_process_group,
)

from pacl_mmseg.models.decode_heads.compatibility_function import CompatibilityFunction
from pacl_mmseg.models.losses.info_nce import (
    InfoNCELoss,
    distinct,
    gather_texts,
    repeat,
    text_ids,
)
from pacl_mmseg.registry import MODELS

IMAGES, TOKENS, DIM = 16, 9, 6
# Images of each process in the runs of several.
SHARES = ([3, 5, 1, 7], [5, 11], [4, 4, 4, 4])


def random_phi(pairs: int = 6) -> Tensor:
    """(pairs, pairs) float64 compatibilities that require gradients."""
    generator = torch.Generator().manual_seed(pairs)
    phi = torch.rand(pairs, pairs, generator=generator, dtype=torch.float64)
    return (2 * phi - 1).requires_grad_()


def test_equals_open_clip():
    generator = torch.Generator().manual_seed(0)
    images = F.normalize(torch.randn(7, 5, generator=generator), dim=1)
    texts = F.normalize(torch.randn(7, 5, generator=generator), dim=1)
    images.requires_grad_()
    expected = ClipLoss()(images, texts, 20.0)
    expected_grad = torch.autograd.grad(expected, images)[0]
    loss = InfoNCELoss(logit_scale=20.0)(images @ texts.T, torch.arange(7))
    grad = torch.autograd.grad(loss['loss_infonce'], images)[0]
    torch.testing.assert_close(loss['loss_infonce'], expected)
    torch.testing.assert_close(grad, expected_grad)


def test_duplicates_are_not_negatives():
    phi = random_phi(4)
    ids = torch.tensor([5, 8, 5, 9])
    result = InfoNCELoss(logit_scale=3.0)(phi, ids)
    left_out = {(0, 2), (2, 0)}
    exponentials = [
        [0 if (i, j) in left_out else math.exp(3 * phi[i, j].item()) for j in range(4)]
        for i in range(4)
    ]
    total = 0.0
    for k in range(4):
        own = exponentials[k][k]
        total -= math.log(own / sum(exponentials[k]))
        total -= math.log(own / sum(row[k] for row in exponentials))
    assert result['loss_infonce'].item() == pytest.approx(total / 8)
    result['loss_infonce'].backward()
    assert phi.grad[0, 2] == 0 and phi.grad[2, 0] == 0
    assert phi.grad[0, 1] > 0

    for unmasked in (
        InfoNCELoss(logit_scale=3.0)(phi),
        InfoNCELoss(logit_scale=3.0, mask_duplicates=False)(phi, ids),
    ):
        assert unmasked['loss_infonce'] > result['loss_infonce'] + 1e-3


def test_only_duplicates_leave_nothing_to_learn():
    phi = random_phi(3)
    result = InfoNCELoss()(phi, torch.tensor([1, 1, 1]))
    result['loss_infonce'].backward()
    assert result['loss_infonce'].item() == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(phi.grad, torch.zeros_like(phi))


def test_accuracies():
    phi = torch.tensor([[0.9, 0.8, 0.1], [0.5, 0.3, 0.4], [0.0, 0.2, 0.4]])
    # Rows: hit, miss, hit. Columns: hit, miss, a tie with 0.4: miss.
    result = InfoNCELoss()(phi, torch.tensor([1, 2, 3]))
    assert result['acc_i2t'].item() == pytest.approx(200 / 3)
    assert result['acc_t2i'].item() == pytest.approx(100 / 3)
    # Captions 0 and 1 agree: their confusions do not count.
    result = InfoNCELoss()(phi, torch.tensor([1, 1, 3]))
    assert result['acc_i2t'].item() == pytest.approx(200 / 3)
    assert result['acc_t2i'].item() == pytest.approx(200 / 3)
    collapsed = InfoNCELoss()(torch.ones(3, 3), torch.tensor([1, 2, 3]))
    assert collapsed['acc_i2t'] == collapsed['acc_t2i'] == 0


def test_fixed_scale_has_no_parameter():
    loss = MODELS.build(dict(type='InfoNCELoss'))
    assert not list(loss.parameters())
    assert loss.logit_scale == pytest.approx(1 / 0.07)
    assert set(loss(random_phi())) == {'loss_infonce', 'acc_i2t', 'acc_t2i'}


def test_learnable_scale():
    loss = InfoNCELoss(logit_scale=20.0, learnable=True)
    phi = random_phi()
    result = loss(phi)
    assert result['logit_scale'].item() == pytest.approx(20)
    assert not result['logit_scale'].requires_grad
    assert [key for key in result if 'loss' in key] == ['loss_infonce']
    result['loss_infonce'].backward()
    step = 1e-4
    ends = [
        InfoNCELoss(logit_scale=20 * math.exp(d))(phi)['loss_infonce']
        for d in (step, -step)
    ]
    slope = (ends[0] - ends[1]).item() / (2 * step)
    assert loss.log_logit_scale.grad.item() == pytest.approx(slope, rel=1e-3)

    with torch.no_grad():
        loss.log_logit_scale.fill_(math.log(160))
    loss.zero_grad()
    result = loss(phi)
    assert result['logit_scale'].item() == pytest.approx(100)
    result['loss_infonce'].backward()
    # A clamped factor must be able to come down again.
    assert loss.log_logit_scale.grad.abs() > 1e-3


def test_half_precision_is_computed_in_float32():
    phi = random_phi().detach().bfloat16()
    loss = InfoNCELoss()(phi)['loss_infonce']
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, InfoNCELoss()(phi.float())['loss_infonce'])
    with torch.autocast('cpu', dtype=torch.bfloat16):
        torch.testing.assert_close(InfoNCELoss()(phi)['loss_infonce'], loss)


def test_errors():
    with pytest.raises(ValueError, match='does not have a text for each image'):
        InfoNCELoss()(torch.zeros(3, 4))
    with pytest.raises(ValueError, match='at offset 1'):
        InfoNCELoss()(torch.zeros(3, 3), offset=1)
    with pytest.raises(ValueError, match='text_ids must be of shape'):
        InfoNCELoss()(torch.zeros(3, 3), torch.arange(4))
    with pytest.raises(ValueError, match='positive'):
        InfoNCELoss(logit_scale=0)
    with pytest.raises(ValueError, match='at most 100.0, not 200'):
        InfoNCELoss(logit_scale=200, learnable=True)


def test_text_ids():
    ids = text_ids(['a cat', 'a dog', 'a cat', 'A cat', 'ein Kätzchen'])
    assert ids.dtype == torch.int64 and (ids >= 0).all()
    assert ids[0] == ids[2]
    assert len(set(ids.tolist())) == 4
    # Fixed by content, unlike hash(), which differs between processes.
    assert text_ids(['a cat']).item() == 3745569759787347665
    assert text_ids([]).shape == (0,)


def test_distinct_texts():
    ids = torch.tensor([7, 3, 7, 9, 3])
    indices, places = distinct(ids)
    assert sorted(ids[indices].tolist()) == [3, 7, 9]
    assert torch.equal(ids[indices][places], ids)
    rows = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.equal(repeat(rows, places), rows[places])
    assert torch.autograd.gradcheck(lambda rows: repeat(rows, places), rows)


def test_gather_texts_in_one_process():
    texts, ids = torch.randn(3, 4, requires_grad=True), torch.arange(3)
    all_texts, all_ids, offset = gather_texts(texts, ids)
    assert all_texts is texts and all_ids is ids and offset == 0


class Embedder(nn.Module):
    """Stands for a model: patch tokens, texts if trained, and a learnable scale."""

    def __init__(self, trainable_texts: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.image = nn.Linear(5, DIM).double()
        self.text = nn.Linear(4, DIM).double()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.text.requires_grad_(trainable_texts)
        self.phi = CompatibilityFunction(weight_scale=2.0, learnable=True)
        self.loss = InfoNCELoss(10.0, learnable=True)


def run_share(
    first: int, last: int, trainable_texts: bool, once: bool = True
) -> dict[str, Tensor]:
    """Loss values and gradients for images first..last-1 of the global batch.

    With ``once`` each of the different texts is compared with the images once.
    """
    generator = torch.Generator().manual_seed(7)
    pixels = torch.randn(IMAGES, TOKENS, 5, generator=generator, dtype=torch.float64)
    words = torch.randn(IMAGES, 4, generator=generator, dtype=torch.float64)
    captions = [f'caption {i % 13}' for i in range(IMAGES)]  # three occur twice
    words = words[torch.arange(IMAGES) % 13]
    model = Embedder(trainable_texts)
    texts, ids, offset = gather_texts(
        model.text(words[first:last]), text_ids(captions[first:last])
    )
    assert offset == first
    assert torch.equal(ids, text_ids(captions))
    torch.testing.assert_close(texts, model.text(words))
    assert texts.requires_grad == trainable_texts
    tokens = model.image(pixels[first:last])
    phi = model.phi(tokens, texts, offset, None, ids if once else None)
    result = model.loss(phi, ids, offset)
    result['loss_infonce'].backward()
    values = {key: value.detach() for key, value in result.items()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            values[name] = parameter.grad
    return values


def worker(folder: str) -> None:
    """One of four processes; saves what it computes in each of the runs."""
    rank = int(os.environ['RANK'])
    for shares in SHARES:
        if rank >= len(shares):
            continue
        world = len(shares)
        run = '-'.join(map(str, shares))
        rendezvous = f'file://{folder}/rendezvous-{run}'
        init_process_group('gloo', rendezvous, rank=rank, world_size=world)
        first = sum(shares[:rank])
        for trainable_texts in (False, True):
            communicated = []
            with pytest.MonkeyPatch.context() as patch:
                record_collectives(patch, communicated)
                values = run_share(first, first + shares[rank], trainable_texts)
            for name, value in values.items():
                if name.startswith(('image', 'text.', 'phi.', 'loss.')):
                    all_reduce(value)
                    value /= world
            saved = {'values': values, 'communicated': communicated}
            torch.save(saved, f'{folder}/{run}-{rank}-{trainable_texts}.pt')
        destroy_process_group()


def record_collectives(patch: pytest.MonkeyPatch, log: list[tuple[str, int]]) -> None:
    """Log the bytes given to collectives; forbid those not expected.

    MMEngine looks the functions up in the module ``torch.distributed`` at each call.
    """

    def recorded_all_reduce(tensor: Tensor, *args, **kwargs):
        log.append(('all_reduce', tensor.nbytes))
        return all_reduce(tensor, *args, **kwargs)

    def recorded_all_gather(outputs: list[Tensor], tensor: Tensor, *args, **kwargs):
        log.append(('all_gather', tensor.nbytes))
        return all_gather(outputs, tensor, *args, **kwargs)

    def forbidden(*args, **kwargs):
        raise AssertionError('an unexpected collective was called')

    for name in (
        'all_gather_into_tensor',
        'all_gather_object',
        'all_to_all',
        'all_to_all_single',
        'broadcast',
        'gather',
        'isend',
        'recv',
        'reduce',
        'reduce_scatter',
        'reduce_scatter_tensor',
        'scatter',
        'send',
    ):
        patch.setattr(torch.distributed, name, forbidden)
    patch.setattr(torch.distributed, 'all_reduce', recorded_all_reduce)
    patch.setattr(torch.distributed, 'all_gather', recorded_all_gather)


def load_run(
    folder: Path, shares: list[int], rank: int, trainable_texts: bool
) -> dict[str, dict]:
    """What :func:`worker` saved."""
    run = '-'.join(map(str, shares))
    return torch.load(folder / f'{run}-{rank}-{trainable_texts}.pt')


@pytest.fixture(scope='module')
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the workers' results, as ``{shares}-{rank}-{trainable}.pt``."""
    folder = tmp_path_factory.mktemp('runs')
    for done in ranks(worker, 4, str(folder)):
        assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize('shares', SHARES)
@pytest.mark.parametrize('trainable_texts', [False, True])
def test_processes_agree_with_one(runs, shares, trainable_texts):
    expected = run_share(0, IMAGES, trainable_texts, once=False)
    assert ('text.weight' in expected) == trainable_texts
    for rank in range(len(shares)):
        saved = load_run(runs, shares, rank, trainable_texts)
        assert saved['values'].keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(
                saved['values'][key], value, rtol=0, atol=1e-6, msg=key
            )


@pytest.mark.parametrize('shares', SHARES)
@pytest.mark.parametrize('trainable_texts', [False, True])
def test_patch_tokens_stay_in_their_process(runs, shares, trainable_texts):
    """Collectives are those of the table in docs/pretraining.md; here of float64."""
    largest = max(shares)  # smaller processes pad to it in what is gathered
    expected = [
        ('all_gather', 8),  # number of texts
        ('all_gather', 8 * largest),  # their ids
        ('all_gather', 8 * largest * DIM),  # texts
        ('all_reduce', 2 * 8 * IMAGES),  # best negatives, and positives
        ('all_reduce', 8 * IMAGES),  # sums of exponentials
        ('all_reduce', 2 * 8),  # loss and accuracy
    ]
    if trainable_texts:
        expected.append(('all_reduce', 8 * IMAGES * DIM))  # the texts' gradient
    for rank in range(len(shares)):
        saved = load_run(runs, shares, rank, trainable_texts)
        assert saved['communicated'] == expected
