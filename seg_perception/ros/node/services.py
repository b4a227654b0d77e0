"""A request that makes rclpy's own service callback raise, anybody may send one, must not end the node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node

from seg_perception.ros.log import Throttle, describe_error


def guard_services(node: Node) -> None:
    """Let every service that the node has by now answer such a request, and log it, instead of ending the process.

    rclpy raises for a parameter whose type is none, for example. Parameters that were not set are answered with the
    reason, whatever else is asked with nothing.
    """
    log = Throttle(1.0)
    for service in node.services:
        service.callback = _guarded(node, service.service_name, service.callback, log)


def _guarded(node: Node, name: str, callback: Callable[[Any, Any], Any], log: Throttle) -> Callable[[Any, Any], Any]:
    def answer(request: Any, response: Any) -> Any:
        try:
            return callback(request, response)
        except Exception as error:  # noqa: BLE001  whatever was asked, others must be answered
            reason = f"the request cannot be answered: {describe_error(error)}"
            if log.due():
                node.get_logger().error(f"{name}: {reason}")
            refusal = SetParametersResult(successful=False, reason=reason)
            if hasattr(response, "result") and isinstance(response.result, SetParametersResult):
                response.result = refusal
            elif hasattr(response, "results"):  # those that were set before it have theirs
                response.results += [refusal] * (len(request.parameters) - len(response.results))
            return response

    return answer
