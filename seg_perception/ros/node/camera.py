"""One camera of the node: its subscription, publishers, account and drivable mask."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rclpy.lifecycle import LifecycleNode
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from seg_perception.core.drivable import DrivableMasker, DrivableSettings, drivable_share
from seg_perception.core.errors import InputError, SettingsError
from seg_perception.core.image_message import RawImage, raw_of
from seg_perception.core.label_set import LabelSet
from seg_perception.core.model_card import ModelCard
from seg_perception.core.types import RgbImage, Segmentation
from seg_perception.node_outputs import Answer
from seg_perception.node_settings import CameraSettings, NodeSettings
from seg_perception.ros import qos
from seg_perception.ros.compat import gpu_reading
from seg_perception.ros.log import Throttle, shortened
from seg_perception.ros.messages import decode_compressed, decode_image, stamp_ns_of
from seg_perception.ros.node.accounting import SAME_CLOCK_S, Fate, FrameAccount, LatencyWindow, RateMeter, Stage, Ticket
from seg_perception.ros.node.image_input import ImageInput, Listening
from seg_perception.ros.node.lost_frames import LARGE_MESSAGE_BYTES, LossMeter, large_images_hint
from seg_perception.ros.node.meters import MetersFrame, MetersThread
from seg_perception.ros.node.outputs import CameraOutputs, RowPublishers
from seg_perception.ros.node.silence import SilenceWatch
from seg_perception.segmenter import PreparedImage, PreparedOnGpu, Segmenter

if TYPE_CHECKING:
    from seg_perception.ros.node.page import NodePage


@dataclass(frozen=True, slots=True)
class CameraFrame:
    """A message on its way through the node."""

    ticket: Ticket
    message: Image | CompressedImage
    stamp_ns: int
    received_at: float  # monotonic seconds
    transport_s: float | None  # from the publisher's middleware to the callback; None: not told

    def prepared(self, segmenter: Segmenter, decode: Callable[[], RgbImage]) -> PreparedImage | PreparedOnGpu:
        """Make it ready for the engine, with no more copies than the engine needs.

        Raises:
            InputError: the message cannot be used; says what came and what is accepted.
        """
        reading = None if isinstance(self.message, CompressedImage) else gpu_reading(self.message.data)
        if reading is not None and segmenter.takes_gpu_images:
            raw = self.raw()
            if segmenter.takes_camera_bytes or segmenter.needs_no_host(raw):
                return segmenter.prepare_on_gpu(raw, reading)
        if segmenter.takes_camera_bytes:
            return segmenter.prepare_raw(self.raw())
        return segmenter.prepare(decode())

    def decoded(self) -> RgbImage:
        """Its pixels, uint8 [H, W, 3] RGB.

        Raises:
            InputError: the message cannot be used; says what came and what is accepted.
        """
        if isinstance(self.message, CompressedImage):
            return decode_compressed(self.message)
        return decode_image(self.message)

    def raw(self) -> RawImage:
        """Its bytes as the camera gave them, for an engine that takes those.

        Raises:
            InputError: the message is compressed, or has no pixels.
        """
        if isinstance(self.message, CompressedImage):
            raise InputError(
                "a compressed image is not accepted: this engine takes the camera's bytes as they are; set its input "
                "to raw, or take a model without a camera encoding"
            )
        return raw_of(self.message)


@dataclass(frozen=True, slots=True)
class Rejection:
    """The last message that could not be used."""

    reason: str
    at: float  # monotonic seconds


class Camera:
    """Subscribes to one camera and publishes its outputs.

    The subscription's callbacks run on the executor's thread and only fill the lane; `publish` runs on the camera's
    thread, as what the frames do does.

    Args:
        name: '' for the one camera without a name.
        deliver: takes each received frame.
        meters: takes each calibration and each answer.
        page: shows each published frame, where the node serves one.
        on_gpu: whether the engine takes images in a GPU's memory.
    """

    def __init__(
        self,
        node: LifecycleNode,
        name: str,
        settings: NodeSettings,
        card: ModelCard,
        deliver: Callable[[CameraFrame], None],
        meters: MetersThread,
        page: NodePage | None = None,
        on_gpu: bool = False,
    ) -> None:
        self.name = name
        self.account = FrameAccount()
        self.latency = LatencyWindow()
        self.rate_in, self.rate_out = RateMeter(), RateMeter()
        self.losses = LossMeter()
        self.drivable_share: float | None = None
        self.busy_with: tuple[str, float] | None = None
        self.last_rejection: Rejection | None = None
        self.time_jumps = 0
        self.stamp_age_s: float | None = None
        self._node = node
        self._card = card
        self._deliver = deliver
        self._meters = meters
        self._page = page
        self._settings = settings
        self._masker = make_masker(self._own.drivable, card.label_set)
        self._reset_requested = False
        self._last_stamp_ns: int | None = None
        self._rejections_log = Throttle(5.0)
        self._jump_log = Throttle(5.0)
        self._loss_hint_given = self._unstamped_said = False
        compressed = self._own.input == "compressed"
        self.listening = Listening.of(node, name, compressed)
        self._input = ImageInput(
            node,
            self.label,
            self.listening.topic,
            CompressedImage if compressed else Image,
            self.listening.accepted_type,
            settings.qos.input,
            self._receive,
            on_gpu and not compressed,
        )
        self.silence = SilenceWatch(node, self.label, self.listening, self._input)
        self._info_subscription: Subscription | None = None
        self._outputs = CameraOutputs(node, name, settings.qos.output)

    @property
    def _own(self) -> CameraSettings:
        return self._settings.camera_settings[self.name]

    # --- set up and tear down, executor thread -------------------------------------------------

    def subscribe(self) -> None:
        """Start to receive."""
        self._input.open()
        self._info_subscription = self._node.create_subscription(
            CameraInfo,
            self.listening.info_topic,
            self._on_camera_info,
            qos.profile("best_effort", 5),
        )
        self.silence.begin()
        self.losses.begin_anew()
        self.rate_in.clear()
        self.rate_out.clear()
        self.latency.clear()
        self.forget_the_past()

    def unsubscribe(self) -> None:
        """Stop to receive."""
        self._input.close()
        if self._info_subscription is not None:
            self._node.destroy_subscription(self._info_subscription)
            self._info_subscription = None

    def destroy(self) -> None:
        """Give back every publisher."""
        self.unsubscribe()
        self._input.destroy()
        self._outputs.destroy()

    @property
    def label(self) -> str:
        """For logs and diagnostics."""
        return f"camera {self.name}" if self.name else "camera"

    def prepare_update(self, settings: NodeSettings) -> Callable[[], None]:
        """Check changed settings; calling the answer makes them count from the next frame.

        Raises:
            SettingsError: the drivable mask cannot be made from them.
        """
        own = settings.camera_settings[self.name].drivable
        masker = self._masker if own == self._own.drivable else make_masker(own, self._card.label_set)

        def commit() -> None:
            self._settings, self._masker = settings, masker

        return commit

    # --- receiving, executor thread ------------------------------------------------------------

    def _receive(self, message: Image | CompressedImage, transport_s: float | None, sequence: int | None) -> None:
        now = time.monotonic()
        self.silence.heard(now)
        self.rate_in.tick(now)
        stamp_ns = stamp_ns_of(message.header)
        self._deliver(CameraFrame(self.account.receive(), message, stamp_ns, now, transport_s))
        self.losses.note(sequence, stamp_ns)
        if not self._loss_hint_given and len(message.data) > LARGE_MESSAGE_BYTES and self.losses.worth_a_hint():
            self._loss_hint_given = True
            lost, total = self.losses.recent()
            hint = large_images_hint(lost, total, self.listening.topic, len(message.data), os.environ)
            self._node.get_logger().warning(f"{self.label}: {hint}")

    def _on_camera_info(self, info: CameraInfo) -> None:
        self._outputs.add_camera_info(info)
        self._meters.add_camera_info(self.name, info)

    def follow_publishers(self) -> None:
        """Request what the image's publishers offer now; call it once a second."""
        self._input.follow_publishers()

    def explain_silence(self, now: float) -> str | None:
        """Why no frame comes, once the configured time has passed."""
        return self.silence.explain(now, self._settings.diagnostics.frame_timeout_s)

    # --- working, the camera's thread -------------------------------------------------------------

    def reject(self, frame: CameraFrame, reason: str) -> None:
        """Book a message that cannot be used, and say so without flooding the log."""
        reason = shortened(reason)
        frame.ticket.book(Fate.REJECTED)
        self.last_rejection = Rejection(reason, time.monotonic())
        if self._rejections_log.due():
            rejected = self.account.counts().rejected
            self._node.get_logger().warning(f"{self.label}: message rejected ({rejected} so far): {reason}")

    def forget_the_past(self) -> None:
        """Before the next frame, forget what earlier frames said (time jumped, or the node was off)."""
        self._reset_requested = True

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Remembers, for diagnostics, what the thread is at, and since when."""
        self.busy_with = (what, time.monotonic())
        try:
            yield
        finally:
            self.busy_with = None

    @property
    def publishers(self) -> tuple[RowPublishers, ...]:
        """Of its outputs."""
        return self._outputs.publishers

    def publish(self, frame: CameraFrame, decode: Callable[[], RgbImage], segmentation: Segmentation) -> float:
        """Mask and publish.

        The mask is computed for every frame, watched or not: its share is in the diagnostics and its
        filter has a memory.

        Returns:
            when the mask was made and publishing began, monotonic seconds.
        """
        self._follow_time(frame)
        masker = self._masker  # a live change may put another in its place meanwhile
        mask = masker.mask(segmentation, frame.stamp_ns)
        self.drivable_share = drivable_share(mask)
        masked = time.monotonic()
        self._outputs.publish(
            Answer(
                frame.message.header, decode, segmentation, mask, self._card, self._settings.overlay, frame.received_at
            )
        )
        self._meters.offer(
            self.name,
            MetersFrame(frame.message.header, frame.stamp_ns, frame.received_at, segmentation, mask, masker.ignored),
        )
        if self._page is not None:
            self._page.show(self.name, frame.stamp_ns, decode, segmentation, mask, self._card)
        self.rate_out.tick(time.monotonic())
        return masked

    def note_latency(self, frame: CameraFrame, times: dict[Stage, float]) -> None:
        """Note a published frame's times."""
        if frame.transport_s is not None:
            times[Stage.RECEIVE] = frame.transport_s
        now_ns = self._node.get_clock().now().nanoseconds  # 0 while no /clock has come
        self.stamp_age_s = (now_ns - frame.stamp_ns) * 1e-9 if now_ns and frame.stamp_ns else None
        if self.stamp_age_s is not None and abs(self.stamp_age_s) < SAME_CLOCK_S:
            times[Stage.STAMP_TO_OUTPUT] = self.stamp_age_s
        self.latency.add(times)

    @property
    def mask_stalled(self) -> str | None:
        """Why the mask's temporal filter lets nothing appear, whatever the camera sees; None: it works."""
        return self._masker.stalled

    def _follow_time(self, frame: CameraFrame) -> None:
        reset_requested = self._reset_requested
        if reset_requested:
            self._reset_requested = False
            self._masker.reset()
        if not frame.stamp_ns:  # nobody set it: no time to compare
            if not self._unstamped_said:
                self._unstamped_said = True
                self._node.get_logger().warning(
                    f"{self.label}: the images have no stamp (zero), so outputs have none, frames cannot be matched "
                    "with camera_info or other sensors, and latency from the stamp is not known"
                )
            return
        if self._last_stamp_ns is not None and frame.stamp_ns < self._last_stamp_ns:
            self._masker.reset()
            if not reset_requested:
                self._say_jump(self._last_stamp_ns - frame.stamp_ns)
        self._last_stamp_ns = frame.stamp_ns

    def _say_jump(self, back_ns: int) -> None:
        self.time_jumps += 1
        if self._jump_log.due():
            self._node.get_logger().warning(
                f"{self.label}: stamps went back by {back_ns * 1e-9:.3f} s (a looping bag?); the mask forgets the past"
            )


def make_masker(settings: DrivableSettings, label_set: LabelSet, patience_s: float = 2.0) -> DrivableMasker:
    """A masker, whose file of an ignore mask is read in a thread of its own: a disk that hangs must not hold the node.

    Raises:
        SettingsError: see `DrivableMasker`; or the file cannot be read, or was not in time.
    """
    if settings.ignore_mask is None:
        return DrivableMasker(settings, label_set)
    made: Future[DrivableMasker] = Future()

    def make() -> None:
        try:
            made.set_result(DrivableMasker(settings, label_set))
        except Exception as error:  # noqa: BLE001  whatever it is, whoever waits must learn it
            made.set_exception(error)

    threading.Thread(target=make, name="ignore mask", daemon=True).start()
    try:
        return made.result(patience_s)
    except FutureTimeoutError as error:
        raise SettingsError(
            f"drivable.ignore_mask: {settings.ignore_mask} was not read within {patience_s:g} s; "
            "is it on a disk or a network folder that hangs?"
        ) from error
    except OSError as error:
        raise SettingsError(f"drivable.ignore_mask cannot be read: {error}") from error
