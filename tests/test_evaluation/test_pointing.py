import pytest
import torch

from pacl_mmseg.apis import init_model, load_config
from pacl_mmseg.apis.analyses import activate, pointing_accuracy
from pacl_mmseg.evaluation.pointing import pointing
from pacl_mmseg.ops import activation_map
from pacl_mmseg.registry import DATASETS


def test_known_answer():
    classes = torch.tensor([[0, 0, 2], [2, 255, 255]])
    maps = torch.zeros(3, 2, 3)
    maps[0, 0, 1] = 1  # hits
    maps[1] = 9  # of no patch: not played
    maps[2, 1, 2] = 1  # where no class is
    played, hits, chance = pointing(maps, classes)
    assert played.tolist() == [0, 2]
    assert hits.tolist() == [True, False]
    assert chance.tolist() == pytest.approx([1 / 3, 1 / 3])
    assert all(len(x) == 0 for x in pointing(maps, torch.full((2, 3), 255)))


@pytest.fixture(scope='module')
def model():
    cfg = load_config('configs/small_world/maskclip.py')
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.test_dataloader.dataset.num_scenes = 30
    return init_model(cfg, device='cpu')


def test_maps_point_at_the_exact_masks_of_the_small_world(model):
    plain = pointing_accuracy(model)
    assert plain['pairs'] > 60
    assert plain['accuracy'] > 2 * plain['chance'] > 20
    # Weights rise with the cosine, so they point where it points; blurred ones do not.
    for mode in ('softmax', 'sigmoid'):
        assert pointing_accuracy(model, mode) == plain
    assert pointing_accuracy(model, 'sigmoid', blur=0.8) != plain


def test_the_map_of_an_image_file_and_any_prompt(model, tmp_path):
    dataset = load_config('configs/small_world/maskclip.py').test_dataloader.dataset
    dataset.update(cache_dir=str(tmp_path), num_scenes=1)
    path = DATASETS.build(dataset)[0]['data_samples'].img_path
    prompts = ['a picture of a striped red thing', 'a dog']
    maps, picture = activate(model, path, prompts, 'softmax')
    assert maps.shape == (2, 8, 8) and picture.shape == (64, 64, 3)
    torch.testing.assert_close(maps.sum((1, 2)), torch.ones(2))
    data = model.data_preprocessor(dict(inputs=[picture.permute(2, 0, 1).flip(0)]))
    with torch.no_grad():
        (tokens,) = model.backbone(data['inputs'])
        expected = activation_map(
            tokens,
            model.decode_head.text_encoder(prompts),
            mode='softmax',
            weight_scale=10.0,  # the model's
        )[0]
    torch.testing.assert_close(maps, expected)
    with pytest.raises(ValueError, match='none that is empty'):
        activate(model, path, ['a dog', ' '])
