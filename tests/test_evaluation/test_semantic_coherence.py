import math

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from scipy.stats import mannwhitneyu

from pacl_mmseg.apis import load_config
from pacl_mmseg.apis.analyses import LayerReader
from pacl_mmseg.datasets.small_world import IGNORE_INDEX, render_scene
from pacl_mmseg.evaluation.semantic_coherence import (
    PatchSample,
    semantic_coherence,
    unit,
)
from pacl_mmseg.models import PACLBackbone
from pacl_mmseg.registry import MODELS

IMAGES, PATCHES, CLASSES = 40, 6, 4


def patches(*layers, seed=0, images=IMAGES, classes=CLASSES):
    """Patches of random classes; a layer makes tokens of their classes and images."""
    of_images = torch.arange(images).repeat_interleave(PATCHES)
    generator = torch.manual_seed(seed)
    of_classes = torch.randint(classes, (len(of_images),), generator=generator)
    tokens = [unit(layer(of_classes, of_images)) for layer in layers]
    return PatchSample(tokens, of_classes, of_images)


def measure(sample, pairs=20_000, bootstrap=100, seed=0):
    return semantic_coherence(
        sample, pairs, bootstrap, torch.Generator().manual_seed(seed)
    )


def of_class(classes, images):
    return torch.eye(CLASSES)[classes]


def of_image(classes, images):
    return torch.eye(IMAGES)[images]


def noisy(classes, images):
    noise = torch.randn(len(classes), CLASSES, generator=torch.manual_seed(1))
    return of_class(classes, images) + 0.7 * noise


def test_known_answers():
    by_class, by_image = measure(patches(of_class, of_image))
    assert (by_class.auroc, by_class.low, by_class.high) == (1, 1, 1)
    # Pairs within an image, which alone are alike there, are none.
    assert (by_image.auroc, by_image.low, by_image.high) == (0.5, 0.5, 0.5)


def test_a_sample_of_pairs_estimates_what_all_pairs_give():
    sample = patches(noisy)
    (tokens,), classes, images = sample.tokens, sample.classes, sample.images
    different = images[:, None] < images
    cosines = (tokens @ tokens.T)[different]
    alike = (classes[:, None] == classes)[different]
    u = mannwhitneyu(cosines[alike], cosines[~alike]).statistic
    expected = u / (int(alike.sum()) * int((~alike).sum()))
    assert 0.6 < expected < 0.9
    (found,) = measure(sample, pairs=100_000, bootstrap=0)
    assert found.auroc == pytest.approx(expected, abs=0.01)
    assert math.isnan(found.low)
    assert found.same / (found.same + found.different) == pytest.approx(
        float(alike.float().mean()), abs=0.01
    )
    area = torch.trapezoid(found.true_positive_rate, found.false_positive_rate)
    assert float(area) == pytest.approx(found.auroc)


def test_the_interval_is_that_of_images():
    """Patches that repeat those of their image say nothing new; images do."""

    def width(images, repeats=1):
        sample = patches(noisy, images=images)
        sample = PatchSample(
            [tokens.repeat(repeats, 1) for tokens in sample.tokens],
            sample.classes.repeat(repeats),
            sample.images.repeat(repeats),
        )
        (found,) = measure(sample)
        assert found.low < found.auroc < found.high
        return found.high - found.low

    assert 0.7 < width(IMAGES, 4) / width(IMAGES) < 1.4
    assert width(4 * IMAGES) / width(IMAGES) < 0.7


def test_a_seed_decides_all_draws():
    sample = patches(noisy)
    first, again, other = (measure(sample, 5_000, 20, seed)[0] for seed in (0, 0, 1))
    assert (first.auroc, first.low) == (again.auroc, again.low)
    assert first.auroc != other.auroc


@pytest.mark.parametrize(
    'sample, message',
    [
        (patches(of_class, classes=1), 'two classes'),
        (patches(of_class, images=1), 'None of 0 pairs .* the same class: take more'),
        (patches(of_class, images=0), 'None of 0 pairs'),
    ],
)
def test_what_has_no_pairs_is_refused(sample, message):
    with pytest.raises(ValueError, match=message):
        measure(sample)


@pytest.fixture(scope='module')
def config():
    cfg = load_config('configs/small_world/pacl.py')
    cfg.test_dataloader.update(num_workers=0, batch_size=4)
    cfg.test_dataloader.dataset.num_scenes = 10
    return cfg


@torch.no_grad()
def test_images_are_read_with_classes_of_patches_and_every_layer(config):
    reader = LayerReader(config, 'cpu')
    indices = [7, 2, 3, 9, 1]
    items = list(reader.read(indices))
    assert [item.index for item in items] == indices
    backbone = MODELS.build(dict(config.model.encoder, type='PACLBackbone')).eval()
    for item in items:
        scene = render_scene(item.index, split='test')
        assert np.array_equal(item.image.flip(0).permute(1, 2, 0), scene.image)
        for row in range(8):
            for column in range(8):
                patch = scene.mask[8 * row :, 8 * column :][:8, :8]
                counts = np.bincount(patch.ravel(), minlength=256)
                assert item.classes[row, column] == counts.argmax()
        inputs = reader.preprocessor(dict(inputs=[item.image]), False)['inputs']
        (expected,) = backbone(inputs)
        torch.testing.assert_close(item.maps[-1], expected[0])
        assert [m.shape for m in item.maps] == [expected[0].shape] * 3


@torch.no_grad()
def test_what_a_checkpoint_trained_is_read_too(config, tmp_path):
    init_default_scope('mmseg')
    torch.manual_seed(1)
    model = MODELS.build(config.model).eval()
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'a.pth')
    reader = LayerReader(config, 'cpu', str(tmp_path / 'a.pth'))
    (item,) = reader.read([3])
    assert [len(m) for m in item.maps] == [128, 128, 128, 64]
    inputs = reader.preprocessor(dict(inputs=[item.image]), False)['inputs']
    torch.testing.assert_close(item.maps[-1], model.extract_feat(inputs)[0][0])


def test_a_sample_has_so_many_labelled_patches_of_so_many_images(config):
    reader = LayerReader(config, 'cpu')
    sample = reader.sample(6, 5, torch.Generator().manual_seed(0))
    assert len(sample.images.unique()) == 6
    assert sample.images.bincount().max() == 5
    assert (sample.classes != IGNORE_INDEX).all()
    for tokens in sample.tokens:
        assert tokens.shape == (len(sample.classes), 128)
        torch.testing.assert_close(tokens.norm(dim=1), torch.ones(len(tokens)))
    assert isinstance(reader.backbone, PACLBackbone)
