import pytest
import torch
from mmseg.evaluation import IoUMetric

from pacl_mmseg.evaluation import GroupIoUMetric, PatchAccuracy


def sample(prediction, label, logits=None):
    return dict(
        pred_sem_seg=dict(data=torch.tensor([prediction])),
        gt_sem_seg=dict(data=torch.tensor([label])),
        seg_logits=dict(data=logits),
        img_path='a.jpg',
    )


def test_group_iou_known_answer():
    metric = GroupIoUMetric(groups=dict(animals=['cat', 'dog'], plants=['tree']))
    metric.dataset_meta = dict(classes=['cat', 'dog', 'tree'])
    data = [sample([[0, 0, 1, 1, 2]], [[0, 1, 1, 1, 255]])]
    metric.process({}, data)
    metrics = metric.evaluate(size=1)
    # cat: 1 of 2, dog: 2 of 3, tree: absent from both (its ignored pixel aside).
    assert metrics['mIoU/animals'] == pytest.approx(100 * (1 / 2 + 2 / 3) / 2, abs=0.01)
    stock = IoUMetric()
    stock.dataset_meta = metric.dataset_meta
    stock.process({}, data)
    expected = stock.evaluate(size=1)
    assert {k: metrics[k] for k in expected} == pytest.approx(expected, nan_ok=True)
    metric = GroupIoUMetric(groups=dict(a=['cow']))
    metric.dataset_meta = dict(classes=['cat'])
    metric.process({}, [sample([[0]], [[0]])])
    with pytest.raises(ValueError, match="'a' has unknown classes: .*cow"):
        metric.evaluate(size=1)


def test_patch_accuracy_known_answer():
    metric = PatchAccuracy(patch_size=2)
    metric.dataset_meta = {}
    label = [
        [0, 0, 1, 1, 0],
        [0, 1, 255, 255, 0],
        [1, 1, 255, 255, 0],
        [1, 1, 255, 1, 0],
    ]
    logits = torch.zeros(2, 4, 5)
    logits[0] = 1  # predicts class 0 ...
    logits[1, 2:, :2] = 3  # ... but for the patch at the lower left
    metric.process({}, [sample(label, label, logits)])
    # Patches: 0 (3 of 4 pixels; right), a tie of 1 and ignored (the lower label
    # counts; predicted 0, wrong), 1 (right), ignored. The fifth column is no patch.
    assert metric.evaluate(size=1) == dict(patch_accuracy=pytest.approx(66.67))


def test_patch_accuracy_reads_tokens_back_from_upsampled_logits():
    tokens = torch.randn(5, 4, 6) * 10
    logits = torch.nn.functional.interpolate(
        tokens[None], scale_factor=8, mode='bilinear'
    )
    label = tokens.argmax(0).repeat_interleave(8, 0).repeat_interleave(8, 1)
    metric = PatchAccuracy(patch_size=8)
    metric.dataset_meta = {}
    metric.process({}, [sample(label.tolist(), label.tolist(), logits[0])])
    assert metric.evaluate(size=1)['patch_accuracy'] > 95
