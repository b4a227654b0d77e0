from __future__ import annotations

import os
from pathlib import Path

import pytest
from waiting import wait_until

from seg_perception.core.errors import EngineError, SettingsError
from seg_perception.ros.bag_tools import record_bag
from seg_perception.ros.context import NodeProcess, check_domain, environment, own_domain, ros_node, unused_domain


def test_a_program_that_ends_is_reported_with_its_status_and_log(tmp_path: Path) -> None:
    with NodeProcess(tmp_path / "log", ["--no-such-option"], module="json.tool") as node:
        ended = r"the node ended with status 2; its log .* ends:\n(.|\n)*--no-such-option"
        with pytest.raises(EngineError, match=ended):
            wait_until(node.check, "the end")  # it answers None as long as the node runs


def test_the_node_ends_when_its_block_does(tmp_path: Path) -> None:
    with NodeProcess(tmp_path / "log", ["--bind", "127.0.0.1", "0"], module="http.server") as node:
        node.check()
    with pytest.raises(EngineError, match="the node ended"):
        node.check()


def test_a_domain_of_ones_own_is_one_that_no_node_is_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A demo that met another node of its name, in another terminal's domain, was answered by both."""
    taken = unused_domain(os.getpid())
    with environment({"ROS_DOMAIN_ID": str(taken)}), ros_node("there_already"):
        assert unused_domain(taken - 1) != taken  # which it begins with
    monkeypatch.setenv("ROS_DOMAIN_ID", "7")
    assert own_domain().get("ROS_DOMAIN_ID", "7") == "7"
    monkeypatch.delenv("ROS_DOMAIN_ID")
    assert 1 <= int(own_domain()["ROS_DOMAIN_ID"]) <= 100


@pytest.mark.parametrize("domain", ["233", "-1", "5x", "1.5"])  # rcl takes 5x for 5
def test_a_domain_that_is_none_is_refused_in_words(domain: str, tmp_path: Path) -> None:
    old = tmp_path / "old.mcap"
    old.write_text("an old bag")
    refused = f"ROS_DOMAIN_ID '{domain}' is not accepted: a whole number from 0 to 232 is"
    with environment({"ROS_DOMAIN_ID": domain}), pytest.raises(SettingsError, match=refused):
        record_bag(old, seconds=1, overwrite=True)
    assert old.read_text() == "an old bag"


@pytest.mark.parametrize("domain", ["", "0", "232", "0x10"])
def test_domains_that_ros_takes_are_taken(domain: str) -> None:
    with environment({"ROS_DOMAIN_ID": domain}):
        check_domain()
