"""Benchmark data: from the official downloads to what the configs load, and checks."""

from pacl_mmseg.datasets.preparation.checking import Verdict, check_benchmark
from pacl_mmseg.datasets.preparation.converters import CONVERTERS, prepare_benchmark
from pacl_mmseg.datasets.preparation.layout import Layout, dataset_config
from pacl_mmseg.datasets.preparation.official import OFFICIAL, Official
from pacl_mmseg.datasets.preparation.writing import Summary

__all__ = [
    'CONVERTERS',
    'OFFICIAL',
    'Layout',
    'Official',
    'Summary',
    'Verdict',
    'check_benchmark',
    'dataset_config',
    'prepare_benchmark',
]
