"""Benchmark data: from the official downloads to what the configs load, and checks."""

from pacl_mmseg.datasets.preparation.checking import Verdict, check_benchmark
from pacl_mmseg.datasets.preparation.converters import CONVERTERS, prepare_benchmark
from pacl_mmseg.datasets.preparation.official import OFFICIAL, Official
from pacl_mmseg.datasets.preparation.writing import Summary

__all__ = [
    'CONVERTERS',
    'OFFICIAL',
    'Official',
    'Summary',
    'Verdict',
    'check_benchmark',
    'prepare_benchmark',
]
