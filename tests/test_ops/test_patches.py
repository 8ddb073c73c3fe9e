import numpy as np
import pytest
import torch

from pacl_mmseg.ops import patch_labels


def reference(labels, ends, ignore_index):
    """Majorities of the pixels of patches, given by first and last along both axes."""
    rows, columns = ends
    result = np.full((len(rows), len(columns)), ignore_index)
    for i, (top, bottom) in enumerate(rows):
        for j, (left, right) in enumerate(columns):
            values, counts = np.unique(
                labels[top:bottom, left:right], return_counts=True
            )
            if len(values):
                result[i, j] = values[counts.argmax()]
    return result


def of_axis(tokens, patch, stride):
    return [(i * stride, i * stride + patch) for i in range(tokens)]


@pytest.mark.parametrize(
    'grid, stride',
    [
        ((4, 5), 8),  # patches tile; three columns at the right are in none
        ((7, 9), 4),  # patches overlap
    ],
)
@pytest.mark.parametrize('ignored', [255, 65535])
def test_labels_of_patches_are_majorities(grid, stride, ignored):
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 255, 65535], (32, 43), p=[0.3, 0.2, 0.2, 0.2, 0.1])
    found = patch_labels(
        torch.as_tensor(labels),
        grid,
        (8, 8),
        (stride, stride),
        (32, 43),
        ignore_index=ignored,
    )
    ends = [of_axis(tokens, 8, stride) for tokens in grid]
    assert np.array_equal(found, reference(labels, ends, ignored))


def test_pixels_of_an_image_that_was_resized_belong_where_they_came_to_be():
    labels = torch.randint(4, (6, 8), generator=torch.manual_seed(0))
    # Twice as large, with three pixels of padding at the left and one at the bottom.
    found = patch_labels(labels, (3, 4), (4, 4), (4, 4), (13, 19), (3, 0, 0, 1))
    # Of the columns' centres in the input, 4, 6, 8, ..., none is in the first patch.
    columns = [(0, 0), (0, 2), (2, 4), (4, 6)]
    rows = [(0, 2), (2, 4), (4, 6)]
    assert np.array_equal(found, reference(labels.numpy(), (rows, columns), 255))


def test_patches_that_exceed_the_input_are_of_one_that_was_stretched():
    labels = torch.arange(20).expand(12, 20)  # 24 pixels wide for three patches of 8
    found = patch_labels(labels, (1, 3), (12, 8), (12, 8), (12, 20))
    assert found.tolist() == [[0, 7, 13]]  # ends at 6 2/3 and 13 1/3; lowest of equals


def test_a_patch_without_a_pixel_is_ignored():
    found = patch_labels(torch.zeros(1, 1), (1, 3), (4, 4), (4, 4), (4, 12))
    assert found.tolist() == [[255, 0, 255]]
