# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What all tabs share: the engine, the panel in which pictures appear, and the way from a click to them."""

import html
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gradio as gr

from .components import picture_view
from .drawing import Drawer, DrawRequest, Progress
from .picture_files import picture_address, preview_address

WAITING = "() => ({state: 'waiting', share: 0, label: 'Waiting for its turn...', pictures: []})"
BLACKENED = ", blackened by the safety checker"
# Of what had begun, `draw` tells itself; what was cancelled counts as failed as well, and stays cancelled.
FAILED = """(shown) => shown?.state === "waiting"
  ? { state: "failed", share: 0, label: "", pictures: [] } : shown"""


@dataclass(frozen=True)
class PicturePanel:
    """Where a tab's pictures appear, and the buttons that begin and end it."""

    draw: gr.Button
    cancel: gr.Button
    view: gr.HTML


class SpaceApp:
    """What a tab is built with: `def build_style_tab(app: SpaceApp) -> None`.

    Args:
        drawer ([`Drawer`]): The engine, one for all tabs and visitors.
    """

    def __init__(self, drawer: Drawer):
        self.drawer = drawer
        self.limits = drawer.limits
        self._run = _on_gpu(drawer)
        self._tabs: list[str] = []

    def picture_panel(self, name: str) -> PicturePanel:
        """Puts the buttons and the pictures where the tab is being built; `name` is that of the tab, in small."""
        with gr.Row(elem_classes="draw-row"):
            draw = gr.Button("Draw", variant="primary", scale=3, min_width=120, elem_id=f"{name}-draw")
            cancel = gr.Button("Cancel", scale=1, min_width=80, elem_id=f"{name}-cancel")
        return PicturePanel(draw, cancel, picture_view(f"{name}-pictures"))

    def on_draw(
        self,
        panel: PicturePanel,
        inputs: Sequence[Any],
        make_request: Callable[..., DrawRequest],
        outputs: Sequence[Any] = (),
        report: Callable[[Progress, DrawRequest], Sequence[Any]] | None = None,
    ) -> None:
        """Says what the panel's buttons do.

        Args:
            panel ([`PicturePanel`]): The panel.
            inputs (`list` of components): Their values are the arguments of `make_request`.
            make_request (`Callable`): What to draw. A `ValueError` is shown to the visitor.
            outputs (`list` of components): What else shows something of the finished drawing.
            report (`Callable`, *optional*): `report(progress, request)` are the values of `outputs`.
        """

        tab = str(panel.draw.elem_id)
        self._tabs.append(tab)

        def draw(request: gr.Request, *values: Any) -> Iterator[Any]:
            for shown, others in self._updates(_visitor(request, tab), make_request, values, report):
                unchanged = [gr.skip() for _ in outputs]
                yield [shown, *(others or unchanged)] if outputs else shown

        def cancel(request: gr.Request) -> dict[str, Any]:
            self.drawer.cancel(_visitor(request, tab))
            return _state("cancelled", "Cancelled.")

        panel.draw.click(None, outputs=panel.view, js=WAITING, queue=False)
        event = panel.draw.click(
            draw,
            inputs=list(inputs),
            outputs=[panel.view, *outputs],
            concurrency_id="draw",
            concurrency_limit=1,
            show_progress="minimal",
            api_visibility="private",
        )
        # What fails before `draw` is called, such as a full queue or an upload that is no picture.
        event.failure(None, panel.view, panel.view, js=FAILED, queue=False)
        panel.cancel.click(
            cancel,
            outputs=panel.view,
            cancels=[event],
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )

    def leave(self, request: gr.Request) -> None:
        """A visitor has closed the page: nobody waits for what is drawn."""
        for tab in self._tabs:
            self.drawer.cancel(_visitor(request, tab))

    def _updates(
        self,
        visitor: str,
        make_request: Callable[..., DrawRequest],
        values: Sequence[Any],
        report: Callable[[Progress, DrawRequest], Sequence[Any]] | None,
    ) -> Iterator[tuple[dict[str, Any], Sequence[Any]]]:
        """What the view shows, and at the end the report."""
        for progress, request in self._events(visitor, make_request, values):
            if isinstance(progress, Progress):
                others = report(progress, request) if report and progress.is_last else ()
                yield self._shown(progress, request), others
            else:
                yield progress, ()

    def _events(
        self, visitor: str, make_request: Callable[..., DrawRequest], values: Sequence[Any]
    ) -> Iterator[tuple[Any, Any]]:
        """The progress of a drawing; what is wrong becomes a message, and the page goes on."""
        try:
            with friendly_errors("This cannot be drawn"):
                request = make_request(*values)
                self.drawer.check(request)
                complaint = self.drawer.complaint(request.prompt or "")
                if complaint:
                    gr.Warning(message(complaint))
                yield _state("drawing", "Drawing..."), request
                for progress in self._run(request, visitor):
                    yield progress, request
        except gr.Error:
            yield _state("failed", ""), None
            raise

    def _shown(self, progress: Progress, request: DrawRequest) -> dict[str, Any]:
        """What the view shows of a step."""
        size, prompt = progress.size, request.prompt or "a picture"
        if progress.is_last:
            blackened = progress.blackened or [False] * len(progress.images)
            pictures = [
                {
                    "src": picture_address(image, request, self.drawer.model, i, black),
                    "name": f"ediffi-{request.seed + i}.png",
                    "caption": f"Seed {request.seed + i}, {size} x {size} pixels{BLACKENED if black else ''}",
                    "alt": prompt,
                }
                for i, (image, black) in enumerate(zip(progress.images, blackened, strict=True))
            ]
            return {"state": "done", "share": 1, "label": "Done.", "pictures": pictures}
        label = f"{size} x {size} pixels: step {progress.step} of {progress.steps}"
        pictures = [{"src": preview_address(image), "caption": "", "alt": prompt} for image in progress.images]
        return {"state": "drawing", "share": round(progress.share, 3), "label": label, "pictures": pictures}


@contextmanager
def friendly_errors(title: str) -> Iterator[None]:
    """Turns what a block raises into a message that the page shows under this title; the page goes on."""
    try:
        yield
    except gr.Error:
        raise
    except ValueError as error:
        raise gr.Error(message(error), title=title, duration=12, print_exception=False) from None
    except (RuntimeError, MemoryError) as error:
        text = "It failed, most often for lack of memory: choose fewer or smaller pictures."
        raise gr.Error(text, title=title) from error
    except Exception as error:  # there is no end to the errors of foreign pipelines
        raise gr.Error("It failed; the log of the server says why.", title=title) from error


def message(error: Exception | str) -> str:
    """The message of an error as a sentence in HTML, where what a stranger wrote is text."""
    text = str(error).strip() or type(error).__name__
    return html.escape(text[:1].upper() + text[1:])


def _visitor(request: gr.Request, tab: str) -> str:
    """Whom the engine draws for: the tab of a page, so that its "Cancel" ends nothing of another tab."""
    return f"{request.session_hash} {tab}"


def _state(state: str, label: str) -> dict[str, Any]:
    return {"state": state, "share": 0, "label": label, "pictures": []}


def _on_gpu(drawer: Drawer) -> Callable[[DrawRequest, str], Iterator[Progress]]:
    """The engine's `draw`; on a ZeroGPU Space in the process that has the GPU."""

    def draw(request: DrawRequest, visitor: str) -> Iterator[Progress]:
        with friendly_errors("This cannot be drawn"):  # here, since of other errors that process tells the class alone
            yield from drawer.draw(request, visitor)

    try:
        import spaces
    except ImportError:
        return draw
    return spaces.GPU(draw)
