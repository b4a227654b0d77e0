"""Quality of service: profiles from settings, and plain words about why two sides do not meet."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy
from rclpy.topic_endpoint_info import TopicEndpointInfo


def latched() -> QoSProfile:
    """For facts that late joiners need: published once, kept for them. A new one each time: rclpy may write into it."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )


_NO_LIMIT_NS = 100 * 365 * 24 * 3600 * 10**9
"""A century: each middleware writes "no limit" as another huge number."""

BEST_AVAILABLE = "best_available"
"""In settings: what the publishers offer, followed as it changes (see node/image_input.py)."""


def reliability_of(name: str) -> ReliabilityPolicy:
    """The policy called "reliable" or "best_effort"."""
    return ReliabilityPolicy[name.upper()]


def best_available(offered: Iterable[QoSProfile]) -> ReliabilityPolicy:
    """Reliable, unless somebody offers best effort: a reliable request would not take that publisher's messages."""
    best_effort = any(offer.reliability == ReliabilityPolicy.BEST_EFFORT for offer in offered)
    return ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE


def profile(reliability: str, depth: int) -> QoSProfile:
    """A volatile keep-last profile.

    Args:
        reliability: "reliable" or "best_effort".
    """
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=reliability_of(reliability),
        durability=DurabilityPolicy.VOLATILE,
    )


def describe(qos: QoSProfile) -> str:
    """Reliability and durability in words: "best_effort, volatile"."""
    return f"{qos.reliability.name.lower()}, {qos.durability.name.lower()}"


def incompatibilities(offered: QoSProfile, requested: QoSProfile) -> list[str]:
    """The rules of DDS that a publisher's offer breaks for a subscription's request; empty: they meet."""
    faults = []
    if requested.reliability == ReliabilityPolicy.RELIABLE and offered.reliability == ReliabilityPolicy.BEST_EFFORT:
        faults.append("reliability: offered best_effort, requested reliable")
    if requested.durability == DurabilityPolicy.TRANSIENT_LOCAL and offered.durability == DurabilityPolicy.VOLATILE:
        faults.append("durability: offered volatile, requested transient_local")
    if _period_ns(requested.deadline) < _period_ns(offered.deadline):
        faults.append(f"deadline: offered {_words(offered.deadline)}, requested {_words(requested.deadline)}")
    manual = LivelinessPolicy.MANUAL_BY_TOPIC
    if requested.liveliness == manual != offered.liveliness:
        faults.append("liveliness: offered automatic, requested manual_by_topic")
    if _period_ns(requested.liveliness_lease_duration) < _period_ns(offered.liveliness_lease_duration):
        lease = _words(requested.liveliness_lease_duration)
        faults.append(f"liveliness lease: offered {_words(offered.liveliness_lease_duration)}, requested {lease}")
    return faults


def _period_ns(duration: Duration) -> int:
    """0 stands for "no limit" in a profile that was never on the wire, the largest number in one that was."""
    return min(int(duration.nanoseconds) or _NO_LIMIT_NS, _NO_LIMIT_NS)


def _words(duration: Duration) -> str:
    nanoseconds = _period_ns(duration)
    return f"{nanoseconds * 1e-9:g} s" if nanoseconds < _NO_LIMIT_NS else "none"


def full_name(endpoint: TopicEndpointInfo) -> str:
    """The /namespace/node of an endpoint; discovery learns of the endpoint before it learns of its node."""
    if "_UNKNOWN_" in endpoint.node_name:  # rmw's "_NODE_NAME_UNKNOWN_"
        return "a node that discovery has not named yet"
    return f"{endpoint.node_namespace.rstrip('/')}/{endpoint.node_name}"


def explain_incompatible_publishers(node: Node, topic: str, requested: QoSProfile) -> str:
    """Names every publisher on a topic whose offer this node's request refuses.

    Discovery may not list the offender yet; then only the request is named.
    """
    wrong = [
        f"{full_name(e)} offers {describe(e.qos_profile)} ({'; '.join(faults)})"
        for e in node.get_publishers_info_by_topic(topic)
        if (faults := incompatibilities(e.qos_profile, requested))
    ]
    who = "; ".join(wrong) or "a publisher that discovery has not named yet"
    return (
        f"incompatible QoS on {topic}: this node requests {describe(requested)}, but {who}. "
        "No frame will come from there: set qos.input.reliability to best_available or change the publisher"
    )


def explain_incompatible_subscribers(node: Node, topic: str, offered: QoSProfile, event: Any) -> str:
    """Names every subscriber on a topic whose request this node's offer does not meet.

    Args:
        event: rclpy's; names the policy, also while discovery does not list the subscriber yet.
    """
    wrong = [
        f"{full_name(e)} requests {describe(e.qos_profile)} ({'; '.join(faults)})"
        for e in node.get_subscriptions_info_by_topic(topic)
        if (faults := incompatibilities(offered, e.qos_profile))
    ]
    who = "; ".join(wrong) or "a subscriber that discovery has not named yet"
    broken = who if wrong else f"{getattr(event.last_policy_kind, 'name', '').lower()}:"
    return (
        f"incompatible QoS on {topic}: this node offers {describe(offered)}, but {who}. "
        f"Nothing will reach it: {_advice_to_subscribers(broken)}"
    )


def _advice_to_subscribers(faults: str) -> str:
    """What helps against these faults; what this node does already is no advice."""
    advice = []
    if "reliability:" in faults:
        advice.append("set qos.output.reliability to reliable, or the subscriber's to best_effort")
    if "durability:" in faults:
        advice.append("set the subscriber's durability to volatile, since images of the past are not kept")
    if "deadline:" in faults or "liveliness" in faults:
        advice.append("request no deadline and no liveliness of it, since the camera decides when there is a frame")
    return "; ".join(advice) or "change the subscriber"
