"""Public real-time networks, rebuilt from their papers so that they are measured as our own are.

One file a network, inference graph only: what exists for training alone (auxiliary heads) is left out.
They are `SegmentationNetwork`s, so the same export wraps them in the same contract. Each was compared with
published code, which its file names: as many parameters, and with that code's weights the same scores, but
for the differences that the file states.
"""

from __future__ import annotations

from peers import bisenet_v2, dabnet, ddrnet_slim, pidnet_s, swiftnet
from peers.parts import Peer

PEERS: tuple[Peer, ...] = tuple(
    module.PEER for module in (dabnet, bisenet_v2, ddrnet_slim, pidnet_s, swiftnet)
)  # by parameters
