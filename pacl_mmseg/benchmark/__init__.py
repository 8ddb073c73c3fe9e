"""Evaluating methods on benchmarks: protocols, cells, their records and tables."""

from pacl_mmseg.benchmark.configs import BENCHMARKS, ENCODERS, compose
from pacl_mmseg.benchmark.methods import (
    CLASSIFICATION,
    CLASSIFIERS,
    IMAGE_LEVEL,
    METHODS,
)
from pacl_mmseg.benchmark.protocols import (
    PROTOCOLS,
    apply_augmentation,
    apply_protocol,
    format_protocol,
    read_protocol,
)
from pacl_mmseg.benchmark.results import describe_test, evaluation_record

__all__ = [
    'BENCHMARKS',
    'CLASSIFICATION',
    'CLASSIFIERS',
    'ENCODERS',
    'IMAGE_LEVEL',
    'METHODS',
    'PROTOCOLS',
    'apply_augmentation',
    'apply_protocol',
    'compose',
    'describe_test',
    'evaluation_record',
    'format_protocol',
    'read_protocol',
]
