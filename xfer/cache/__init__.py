"""Features kept on disk by example, so that no example passes through a network twice."""

from xfer.cache.code import code_digest
from xfer.cache.digests import example_digests
from xfer.cache.store import FeatureCache

__all__ = ["FeatureCache", "code_digest", "example_digests"]
