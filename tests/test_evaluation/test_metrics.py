import logging
import math

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmseg.evaluation import IoUMetric

from pacl_mmseg.evaluation import (
    Flicker,
    GroupIoUMetric,
    PatchAccuracy,
    PresentClassesIoUMetric,
    TokenAccuracy,
)


def sample(prediction, label, present=None, **metainfo):
    """What a metric gets of one image; maps are ``(H, W)``."""
    maps = dict(pred_sem_seg=prediction, gt_sem_seg=label, pred_present_classes=present)
    return {
        'img_path': 'a.jpg',
        **metainfo,
        **{
            key: dict(data=torch.as_tensor(value)[None].long())
            for key, value in maps.items()
            if value is not None
        },
    }


def measure(metric, samples, classes=('cat', 'dog')):
    metric.dataset_meta = dict(classes=classes)
    for one in samples:
        metric.process({}, [one])
    return metric.evaluate(size=len(samples))


def reference(pairs, num_classes, ignore_index):
    """mIoU, mAcc, aAcc in percent, from one confusion matrix in integers."""
    confusion = np.zeros((num_classes, num_classes), np.int64)
    for prediction, label in pairs:
        counted = label != ignore_index
        np.add.at(confusion, (label[counted], prediction[counted]), 1)
    hits = confusion.diagonal()
    with np.errstate(invalid='ignore'):
        iou = hits / (confusion.sum(0) + confusion.sum(1) - hits)
        acc = hits / confusion.sum(1)
    values = dict(mIoU=iou, mAcc=acc, aAcc=hits.sum() / confusion.sum())
    return {name: 100 * np.nanmean(value) for name, value in values.items()}


def random_maps(num_classes, ignore_index, images=3):
    rng = np.random.default_rng(0)
    for _ in range(images):
        label = rng.integers(0, num_classes, (60, 80))
        prediction = np.where(
            rng.random(label.shape) < 0.4, label, rng.integers(0, num_classes, (60, 80))
        )
        label[rng.random(label.shape) < 0.1] = ignore_index
        yield prediction, label


@pytest.mark.parametrize(
    ('num_classes', 'ignore_index'), [(20, 255), (847, 65535), (459, 65535)]
)
def test_iou_of_label_sets_of_any_size_equals_a_confusion_matrix(
    num_classes, ignore_index
):
    pairs = list(random_maps(num_classes, ignore_index))
    classes = [str(index) for index in range(num_classes)]
    stock = measure(
        IoUMetric(ignore_index=ignore_index), [sample(*pair) for pair in pairs], classes
    )
    assert stock == pytest.approx(
        reference(pairs, num_classes, ignore_index), abs=0.0051
    )


def test_both_protocols_are_measured_in_one_pass(caplog):
    standard = list(random_maps(20, 255))
    # Where only the classes of the image compete, the prediction differs.
    present = [(prediction // 2, label) for prediction, label in standard]
    evaluator = Evaluator(
        [dict(type='IoUMetric'), dict(type='PresentClassesIoUMetric')]
    )
    evaluator.dataset_meta = dict(classes=[str(index) for index in range(20)])
    samples = [
        sample(prediction, label, other)
        for (prediction, label), (other, _) in zip(standard, present, strict=True)
    ]
    evaluator.process(samples)
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO, logger.name):
        metrics = evaluator.evaluate(size=3)
    logger.removeHandler(caplog.handler)
    expected = reference(standard, 20, 255) | {
        f'present_classes/{name}': value
        for name, value in reference(present, 20, 255).items()
    }
    assert metrics == pytest.approx(expected, abs=0.0051)
    # The second table, and no other, is announced as the other protocol's.
    titles = [
        line.split(' ')[0] for line in caplog.messages if not line.startswith('\n')
    ]
    assert titles == ['per', 'present-classes', 'per']
    assert torch.equal(  # the other metrics of the pass see the standard prediction
        samples[0]['pred_sem_seg']['data'][0], torch.as_tensor(standard[0][0])
    )


def test_present_classes_says_what_to_set_when_the_model_does_not_predict_them():
    with pytest.raises(ValueError, match='set model.test_cfg.present_classes=True'):
        measure(PresentClassesIoUMetric(), [sample([[0]], [[0]])])


def test_group_iou_known_answer():
    metric = GroupIoUMetric(groups=dict(animals=['cat', 'dog'], plants=['tree']))
    data = [sample([[0, 0, 1, 1, 2]], [[0, 1, 1, 1, 255]])]
    classes = ['cat', 'dog', 'tree']
    metrics = measure(metric, data, classes)
    # cat: 1 of 2, dog: 2 of 3, tree: absent from both (its ignored pixel aside).
    assert metrics['mIoU/animals'] == pytest.approx(100 * (1 / 2 + 2 / 3) / 2, abs=0.01)
    expected = measure(IoUMetric(), data, classes)
    assert {k: metrics[k] for k in expected} == pytest.approx(expected, nan_ok=True)


def test_group_iou_refuses_an_unknown_class_before_the_evaluation():
    metric = GroupIoUMetric(groups=dict(pets=['cat', 'dogs']))
    with pytest.raises(ValueError, match="'pets' .* 'dogs'.* Did you mean 'dog'?"):
        metric.dataset_meta = dict(classes=('cat', 'dog'))


def test_patch_accuracy_known_answer():
    label = [
        [0, 0, 1, 1, 0],
        [0, 1, 255, 255, 0],
        [1, 1, 255, 255, 0],
        [1, 1, 255, 1, 0],
        [1, 1, 1, 1, 1],
    ]
    prediction = [
        [1, 1, 1, 1, 1],
        [1, 0, 1, 0, 1],
        [0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]
    # Patches: 0 (3 of 4 pixels; right), a tie of 1 and ignored (the lower label
    # counts; predicted 0, wrong), 1 (right), ignored. Centres are the pixels at the
    # lower right; the fifth row and column are in no patch.
    metrics = measure(PatchAccuracy(patch_size=2), [sample(prediction, label)])
    assert metrics == dict(patch_accuracy=pytest.approx(66.67))


def test_patch_accuracy_of_both_protocols_equals_a_loop_over_patches():
    rng = np.random.default_rng(1)
    samples, right, counted = [], [0, 0], 0
    for height, width in [(37, 50), (7, 90), (24, 24)]:  # the second has no patch
        label = rng.choice([0, 1, 2, 65535], (height, width), p=[0.4, 0.2, 0.2, 0.2])
        label[:, :20] = 65535  # whole patches
        # Where an image has no class, what is predicted may be the ignored label.
        predictions = rng.choice([0, 1, 2, 65535], (2, height, width))
        samples.append(sample(predictions[0], label, predictions[1]))
        for top in range(0, height - 7, 8):
            for left in range(0, width - 7, 8):
                patch = label[top : top + 8, left : left + 8]
                values, counts = np.unique(patch, return_counts=True)
                majority = values[counts.argmax()]
                if majority == 65535:
                    continue
                counted += 1
                for index in range(2):
                    right[index] += predictions[index, top + 4, left + 4] == majority
    metrics = measure(PatchAccuracy(patch_size=8, ignore_index=65535), samples)
    assert counted > 10
    assert metrics == {
        'patch_accuracy': pytest.approx(100 * right[0] / counted, abs=0.0051),
        'present_classes/patch_accuracy': pytest.approx(
            100 * right[1] / counted, abs=0.0051
        ),
    }


def test_a_single_frame_does_not_flicker():
    assert math.isnan(Flicker().compute_metrics([])['flicker'])


def test_flicker_goes_from_frame_to_frame():
    def frame(clip, number, prediction, label):
        return sample([prediction], [label], clip=clip, frame=number)

    metric = Flicker()
    metric.process(
        {},
        [
            frame(0, 0, [1, 2, 3, 4], [1, 1, 2, 255]),
            frame(0, 1, [1, 3, 4, 5], [1, 1, 3, 255]),  # the second of two changes
        ],
    )
    metric.process({}, [frame(0, 2, [1, 3, 4, 5], [1, 1, 3, 255])])  # none of three
    metric.process({}, [frame(1, 0, [7, 7, 7, 7], [1, 1, 3, 255])])  # another clip
    assert metric.compute_metrics(metric.results) == dict(flicker=20.0)
    with pytest.raises(ValueError, match='frame 2 of clip 1 comes after'):
        metric.process({}, [frame(1, 2, [0], [0])])
    with pytest.raises(ValueError, match='does not say which one it is'):
        metric.process({}, [sample([0], [0], frame=1)])


def test_token_accuracy_is_of_tokens_that_have_a_class():
    def tokens(label, labels, among_present, size):
        grid = (1, len(labels))
        return {
            **sample(None, label),
            'token_patches': dict(grid=grid, patch=(4, 4), stride=(4, 4), size=size),
            'pred_tokens': dict(data=torch.tensor([[labels]])),
            'pred_tokens_present_classes': dict(data=torch.tensor([[among_present]])),
        }

    ignored = [[0, 0, 1, 0, 255, 255, 255, 0]] * 5  # most of the second patch
    halves = [[0] * 4 + [1] * 4] * 5  # twice as wide once resized
    samples = [
        tokens(ignored, [0, 0], [1, 0], (5, 8)),
        tokens(halves, [0, 1, 1, 0], [0, 0, 1, 1], (4, 16)),
    ]
    assert measure(TokenAccuracy(), samples) == {
        'token_accuracy': 60.0,  # 1 of 1 and 2 of 4
        'present_classes/token_accuracy': 80.0,
    }
    # Without labels of tokens, as of sliding windows, nothing is measured.
    assert measure(TokenAccuracy(), [sample([[0]], [[0]])]) == {}
