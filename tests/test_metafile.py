"""model-index.yml and what it imports, as MIM, MMEngine and MMSeg read them."""

import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.infer import BaseInferencer
from modelindex.load_model_index import load

import pacl_mmseg  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope='module')
def index():
    return load(str(ROOT / 'model-index.yml'))


def test_rows_are_of_configs_and_collections(index):
    collections = {collection.name for collection in index.collections}
    for model in index.models:
        assert (ROOT / model.config).is_file(), model.config
        assert model.in_collection in collections
        assert model.name.endswith(Path(model.config).stem)
    # Trainings of the top folder, all of them.
    trainings = {path.stem for path in ROOT.glob('configs/*_cc12m.py')}
    assert trainings <= {model.name for model in index.models}


def test_results_are_those_of_the_documentation(index):
    page = (ROOT / 'docs' / 'small_world.md').read_text()
    table = page.partition('## The methods compared')[2]
    published = [
        float(m) for m in re.findall(r'^\| [A-Z].+? \| ([\d.]+) \|', table, re.M)
    ]
    found = [
        result.metrics['mIoU']
        for model in index.models
        for result in model.results or []
    ]
    assert found == published


def test_mmengine_finds_the_rows(tmp_path):
    names = BaseInferencer.list_models('pacl_mmseg')
    assert {'pacl_vitb16_coco', 'small_world_pacl'} <= {*names}
    config = tmp_path / 'own.py'
    config.write_text("_base_ = ['pacl_mmseg::small_world/pacl.py']")
    assert Config.fromfile(config).model.type == 'ZeroShotSegmentor'
