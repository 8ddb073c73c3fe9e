"""Where the package's own files are, installed or in place."""

from pathlib import Path

CONFIGS = Path(__file__).parent / '.mim' / 'configs'
"""The configs, where MMEngine looks for those of a package."""

TOOLS = CONFIGS.with_name('tools')
"""The command-line tools, likewise."""
