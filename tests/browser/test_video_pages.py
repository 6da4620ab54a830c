"""Pages of an imported video in the browser: they come from another origin, and their pixels can be read."""

from __future__ import annotations

import base64

from saved_masks import masks_of
from video_clips import HEIGHT, WIDTH, number_in

START, PAGE = 8, 5
SPOT = (40.0, 50.0)

_PIXELS = """async () => {
  const image = Htx.annotationStore.selected.objects.find(item => item.type === "image");
  const picture = new Image();
  picture.crossOrigin = "anonymous";
  picture.src = image.currentImageEntity.currentSrc || image.currentImageEntity.src;
  await picture.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [picture.naturalWidth, picture.naturalHeight];
  canvas.getContext("2d").drawImage(picture, 0, 0);
  return canvas.toDataURL("image/png");
}"""


def shown_number(editor) -> int:
    """The number that the page on the screen shows, read as the brush reads pixels."""
    return number_in(base64.b64decode(editor.page.evaluate(_PIXELS).partition(",")[2]))


def test_a_click_on_a_page_of_a_video(editor, video_place, saved):
    project = video_place.project("video_frames", show_collab_predictions=False)
    video_place.run("import", video_place.clip, "--project", project, "--pages", 8)
    video_place.label_studio.attach_backend(project, video_place.url)
    task = next(task for task in video_place.tasks(project) if task["data"]["start_frame"] == START)
    editor.open(project, task["id"])
    editor.switch_on()
    for page in range(PAGE):
        assert shown_number(editor) == START + page
        editor.next_page()
    assert (editor.page_number(), shown_number(editor)) == (PAGE, START + PAGE)
    editor.picture("page")
    editor.choose("1", "point: Object 1")
    editor.take_up("KeyPointTool")
    asked = editor.click(*SPOT)
    assert [region["item_index"] for region in asked.context] == [PAGE]
    editor.accept()
    items = saved(editor.submit())
    ((label, mask),) = masks_of(items)
    assert (label, mask.shape) == ("Object 1", (HEIGHT, WIDTH))
    assert [item["item_index"] for item in items if item["type"] == "bitmasklabels"] == [PAGE]
    assert mask[int(SPOT[1] / 100 * HEIGHT), int(SPOT[0] / 100 * WIDTH)]
    assert 0 < mask.mean() < 0.2
