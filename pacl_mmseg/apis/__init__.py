from pacl_mmseg.apis.benchmarks import BENCHMARKS, METHODS, compose
from pacl_mmseg.apis.config import apply_options, load_config
from pacl_mmseg.apis.protocols import (
    PROTOCOLS,
    apply_protocol,
    format_protocol,
    read_protocol,
)
from pacl_mmseg.apis.results import describe_test, evaluation_record
from pacl_mmseg.apis.vocabulary import set_vocabulary

__all__ = [
    'BENCHMARKS',
    'METHODS',
    'PROTOCOLS',
    'apply_options',
    'apply_protocol',
    'compose',
    'describe_test',
    'evaluation_record',
    'format_protocol',
    'load_config',
    'read_protocol',
    'set_vocabulary',
]
