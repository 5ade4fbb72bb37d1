"""Networks as well-known public checkpoints of MXNet have them, made small.

Operators, attributes, names and how they are put together are those of the originals; widths and
depths are not. Each builder tells the MXNet of whose age the files are, the shapes of an example,
and what one may expect to be asked of the network.
"""

from field_networks import classification, detection, faces, gluon, regions, text
from field_networks.files import save
from field_networks.layers import NETWORKS

__all__ = ["NETWORKS", "classification", "detection", "faces", "gluon", "regions", "save", "text"]
