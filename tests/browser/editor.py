"""Label Studio's labeling screen in the hands of a test: a real mouse and keyboard, and waiting for events only.

Positions are percent of the picture, origin top left, as Label Studio's own results have them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, Response

PATIENCE_MS = 120_000
_KEYS = {"KeyPointTool": "k", "RectangleTool": "r"}
_SMART_TOOLS = 8  # at most, in one configuration

_READY = """() => {
  const annotation = window.Htx?.annotationStore?.selected;
  const image = annotation?.objects.find(item => item.type === "image");
  return Boolean(image?.currentImageEntity?.imageLoaded && document.querySelector(".konvajs-content canvas"));
}"""

# The picture's place in the window, given when it has stayed the same for three frames: panels and texts that arrive
# late push it around.
_PLACE = """() => new Promise(resolve => {
  let last = "", same = 0;
  const look = () => {
    const image = Htx.annotationStore.selected.objects.find(item => item.type === "image");
    const stage = document.querySelector(".konvajs-content").getBoundingClientRect();
    const offset = image.alignmentOffset ?? {x: 0, y: 0}, scale = image.stageScale || 1;
    const place = {
      x: stage.x + offset.x + (image.zoomingPositionX || 0), y: stage.y + offset.y + (image.zoomingPositionY || 0),
      width: image.stageWidth * scale, height: image.stageHeight * scale,
    };
    const now = JSON.stringify(place);
    same = now === last ? same + 1 : 0;
    last = now;
    same >= 3 ? resolve(place) : requestAnimationFrame(look);
  };
  look();
})"""

_SELECTED = """() => Array.from(Htx.annotationStore.selected.names.values()).flatMap(
  tag => (tag.selectedLabels ?? []).map(label => `${tag.name.split("@")[0]}: ${label.value}`))"""

_TOOL = """() => {
  const image = Htx.annotationStore.selected.objects.find(item => item.type === "image");
  return image.getToolsManager().findSelectedTool()?.fullName ?? "";
}"""

_CONTROL = """() => {
  const image = Htx.annotationStore.selected.objects.find(item => item.type === "image");
  const tool = image.getToolsManager().findSelectedTool();
  return tool?.dynamic ? tool.control.name.split("@")[0] : "";
}"""

_CHOSEN = "() => Htx.annotationStore.selected.selectedRegions.map(region => region.cleanId)"

_RESULTS = "() => JSON.parse(JSON.stringify(Htx.annotationStore.selected.serializeAnnotation()))"

_PAGE = """() => Htx.annotationStore.selected.objects.find(item => item.type === "image").currentImage ?? 0"""

_TEXTS = """name => {
  const tag = Array.from(Htx.annotationStore.selected.names.values()).find(tag => tag.name.split("@")[0] === name);
  const lines = tag?.elementRef?.current?.querySelectorAll("[data-testid=textarea-regions] *") ?? [];
  return Array.from(lines).filter(line => line.value || !line.children.length)
    .map(line => line.value || line.innerText || "").filter(Boolean);
}"""


@dataclass(frozen=True)
class Exchange:
    """A question that the editor asked for the annotator, and what came back."""

    context: list[dict[str, Any]]
    items: list[dict[str, Any]]

    def told(self) -> str:
        """What the answer says in words."""
        return " ".join(text for item in self.items if item["type"] == "textarea" for text in item["value"]["text"])


class Editor:
    """A page of the browser with one task open; every step leaves a numbered picture in a folder."""

    def __init__(self, page: Page, url: str, pictures: Path):
        self.page, self._url, self._pictures = page, url, pictures
        self._count, self._place = 0, (0, 0)
        self._draft: Any = None
        self.complaints: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("response", self._note_draft)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda line: self.complaints.append(line.text) if line.type == "error" else None)

    def open(self, project: int, task: int) -> None:
        self._place = project, task
        self.page.goto(f"{self._url}/projects/{project}/data?task={task}", wait_until="commit")
        self.page.wait_for_function(_READY)
        self.page.get_by_test_id("bottombar-auto-annotation-toggle").wait_for(state="attached")
        # The list of tasks, users and history come in late and draw the screen again: a label chosen before is lost.
        self.page.wait_for_load_state("networkidle")
        self.page.wait_for_function(_READY)
        self.picture("open")

    def reopen(self) -> None:
        """Leaves for the project's list and opens the same task again, as somebody would the next day."""
        self.page.goto(f"{self._url}/projects/", wait_until="commit")
        self.open(*self._place)

    def switch_on(self, automatic: bool = True) -> None:
        """Auto-Annotation; the browser remembers it from task to task."""
        toggle = self.page.get_by_test_id("bottombar-auto-annotation-toggle")
        if toggle.is_checked() != automatic:
            self.page.get_by_text("Auto-Annotation", exact=True).click()
            # The switch keeps the focus, and with it all keys, until something else is clicked.
            self.page.evaluate("() => document.activeElement.blur()")
        self.page.wait_for_function("wanted => Htx.autoAnnotation === wanted", arg=automatic)

    def press(self, keys: str) -> None:
        self.page.keyboard.press(keys)

    def take_up(self, tool: str) -> None:
        """Presses the key of a smart tool, ``KeyPointTool`` or ``RectangleTool``.

        A label alone doesn't take up its tool: where another one is in hand, choosing the label puts that one down. M,
        which Label Studio names for its smart tools, leads to the same one each time.
        """
        self.press(_KEYS[tool])
        self.page.wait_for_function(f"tool => ({_TOOL})() === tool", arg=f"{tool}-dynamic")

    def take_up_by_button(self, control: str) -> int:
        """Clicks the pink button until the smart tool of a tag is in hand; how many clicks that took."""
        for clicks in range(1, _SMART_TOOLS + 1):
            self.page.locator(".lsf-tool_smart").first.click()
            if self.page.evaluate(_CONTROL) == control:
                return clicks
        raise AssertionError(f"the pink button does not lead to {control}")

    def tool(self) -> str:
        return self.page.evaluate(_TOOL)

    def smart_control(self) -> str:
        """The tag whose smart tool is in hand; empty when that is another tool."""
        return self.page.evaluate(_CONTROL)

    def choose(self, key: str, label: str) -> None:
        """Clicks on the label with this hotkey, ``point: Object``, and waits until it is chosen."""
        named = self.page.locator(".lsf-label__hotkey", has_text=re.compile(f"^{re.escape(key)}$"))
        self.page.locator(".lsf-label", has=named).click()
        self._wait_chosen(label)

    def choose_by_key(self, key: str, label: str) -> None:
        """Presses the hotkey of a label."""
        self.press(key)
        self._wait_chosen(label)

    def selected_labels(self) -> list[str]:
        return self.page.evaluate(_SELECTED)

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Where a place of the picture is in the window."""
        place = self.page.evaluate(_PLACE)
        return place["x"] + x / 100 * place["width"], place["y"] + y / 100 * place["height"]

    def click(self, x: float, y: float, negative: bool = False) -> Exchange:
        """A click with a smart tool, with Alt held when it is negative; returns when the answer is shown."""

        def act() -> None:
            if negative:
                self.page.keyboard.down("Alt")
            self.page.mouse.click(*at)
            if negative:
                self.page.keyboard.up("Alt")

        at = self.point(x, y)
        self.page.mouse.move(*at, steps=3)
        return self._asked("negative click" if negative else "click", act)

    def drag(self, x0: float, y0: float, x1: float, y1: float) -> Exchange:
        """Draws a box with a smart tool."""

        def act() -> None:
            self.page.mouse.down()
            self.page.mouse.move(*end, steps=5)
            self.page.mouse.up()

        start, end = self.point(x0, y0), self.point(x1, y1)
        self.page.mouse.move(*start)
        return self._asked("box", act)

    def choose_kept(self, x: float, y: float) -> str:
        """Chooses the kept mask at a place of the page; its id."""
        self.press("v")
        self.page.mouse.click(*self.point(x, y))
        self.page.wait_for_function(f"() => ({_CHOSEN})().length === 1")
        return self.page.evaluate(_CHOSEN)[0]

    def let_go(self) -> None:
        """Of the chosen mask."""
        self.press("u")
        self.page.wait_for_function(f"() => ({_CHOSEN})().length === 0")

    def erase(self, *places: tuple[float, float]) -> None:
        """Draws with the eraser over the chosen mask, from place to place."""
        self.press("e")
        self.page.wait_for_function(f"() => ({_TOOL})().includes('Eraser')")
        first, *others = [self.point(*place) for place in places]
        self.page.mouse.move(*first)
        self.page.mouse.down()
        for place in others:
            self.page.mouse.move(*place, steps=10)
        self.page.mouse.up()
        self.picture("erased")

    def type(self, text: str) -> Exchange:
        """Types into the prompt field, and Enter."""
        field = self.page.locator("input[name=prompt]")
        field.click()
        self.page.keyboard.type(text)
        return self._asked("text", lambda: field.press("Enter"))

    def shown(self, control: str) -> str:
        """The text that stands in a TextArea."""
        return " ".join(self.page.evaluate(_TEXTS, control))

    def results(self) -> list[dict[str, Any]]:
        """What would be submitted now."""
        self.page.wait_for_function("() => Htx.annotationStore.selected.regions.every(region => !region.isLoading)")
        return self.page.evaluate(_RESULTS)

    def wait_saved(self) -> None:
        """Returns when Label Studio has stored a draft of what would be submitted now: at most some five seconds."""
        now = _content(self.results())
        if self._draft != now:
            with self.page.expect_response(lambda answer: _is_draft(answer) and _drafted(answer) == now):
                pass

    def suggestions(self) -> int:
        return self.page.evaluate("() => Htx.annotationStore.selected.suggestions.size")

    def accept(self) -> None:
        """The tick of the bottom bar."""
        self.page.get_by_test_id("bottombar-accept-suggestions-button").click()
        self.page.wait_for_function("() => Htx.annotationStore.selected.suggestions.size === 0")
        self.picture("accepted")

    def page_number(self) -> int:
        """The page that is shown, counted from 0."""
        return self.page.evaluate(_PAGE)

    def show_page(self, number: int) -> None:
        """Turns to a page, counted from 0, by the field above the picture."""
        self.page.locator(".lsf-pagination__page-indicator").first.click()
        field = self.page.locator(".lsf-pagination__input input").first
        field.fill(str(number + 1))
        field.press("Enter")
        self.page.wait_for_function(f"page => ({_PAGE})() === page && ({_READY})()", arg=number)
        self.page.evaluate("() => document.activeElement.blur()")

    def next_page(self) -> None:
        before = self.page_number()
        self.press("Control+ArrowRight")
        self.page.wait_for_function(f"before => ({_PAGE})() === before + 1 && ({_READY})()", arg=before)

    def submit(self) -> int:
        """Submits with the button; the id of the annotation that was stored."""
        # The answer of a draft that is being saved would come in between.
        stored = re.compile(r"/api/(tasks/\d+/annotations|annotations/\d+)/?(\?|$)")
        button = self.page.get_by_test_id("bottombar-submit-button").or_(
            self.page.get_by_test_id("bottombar-update-button")
        )
        with self.page.expect_response(
            lambda answer: answer.request.method in ("POST", "PATCH") and stored.search(answer.url) is not None
        ) as waiting:
            button.click()
        answer = waiting.value
        assert answer.ok, f"{answer.status} {answer.text()[:500]}"
        number = answer.json()["id"]
        self.page.wait_for_function("id => String(Htx.annotationStore.selected?.pk) === String(id)", arg=number)
        self.picture("submitted")
        return number

    def picture(self, name: str) -> Path:
        """Takes a picture of the window."""
        self._pictures.mkdir(parents=True, exist_ok=True)
        path = self._pictures / f"{self._count:02d}-{name.replace(' ', '-')}.jpg"
        self._count += 1
        self.page.screenshot(path=path, type="jpeg", quality=70)
        return path

    def _note_draft(self, answer: Response) -> None:
        if _is_draft(answer):
            self._draft = _drafted(answer)

    def _wait_chosen(self, label: str) -> None:
        self.page.wait_for_function(f"label => ({_SELECTED})().includes(label)", arg=label)

    def _asked(self, name: str, act: Callable[[], None]) -> Exchange:
        with self.page.expect_response(_is_answer) as waiting:
            act()
        answer = waiting.value
        self.page.wait_for_function("() => !Htx.awaitingSuggestions")
        self.picture(name)
        body = answer.json()
        assert not body.get("errors"), f"the editor would show nothing: {json.dumps(body['errors'])}"
        return Exchange(answer.request.post_data_json["context"]["result"], body["data"]["result"])


def _is_draft(answer: Response) -> bool:
    return answer.request.method in ("POST", "PATCH") and "/drafts" in answer.url and answer.ok


def _drafted(answer: Response) -> Any:
    return _content(answer.request.post_data_json["result"])


def _content(items: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """What an annotation consists of, to be compared. Brush masks are in drafts in another form than in annotations."""
    whole = [{key: value for key, value in item["value"].items() if key not in ("rle", "touches")} for item in items]
    return sorted((item["id"], item["type"], json.dumps(value)) for item, value in zip(items, whole, strict=True))


def _is_answer(answer: Response) -> bool:
    return "/interactive-annotating" in answer.url
