"""The doctor's checks of Label Studio: its address, the token, the project, the labeling configuration, tasks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from backend.clients import NoAnswer, shown
from backend.doctor import Finding, Mark, NotNow, Problem, Visit
from backend.errors import LabelConfigError, MediaError
from backend.frames import addresses_of
from backend.label_config import OUTPUTS, ControlTag, LabelConfig, ObjectTag, parse_label_config, task_value

_LISTED = 8
_BRUSHES = ("brushlabels", "bitmasklabels", "brush", "bitmask")
_DRAWN = ("keypointlabels", "rectanglelabels")


def check_url(visit: Visit) -> str:
    """Label Studio answers at ``LABEL_STUDIO_URL``, not a proxy's page and not the ML backend itself."""
    client = visit.label_studio
    try:
        reply = client.ask("GET", "/api/version/", seconds=15, anonymous=True)
    except NoAnswer as error:
        raise Problem(
            f"nothing answers at {shown(client.url)}: {error}",
            "Start Label Studio, or set LABEL_STUDIO_URL to its address as seen from this machine; in a container "
            "'localhost' is the container itself.",
        ) from error
    release = reply.entry("release")
    if reply.status == 200 and isinstance(release, str):
        return f"Label Studio {release} at {shown(client.url)}"
    if 300 <= reply.status < 400 and reply.location.startswith(("http://", "https://")):
        place = shown(reply.location).removesuffix("/api/version")
        raise Problem(f"{shown(client.url)} sends on to another address", f"Set LABEL_STUDIO_URL to {place}.")
    raise Problem(
        f"{shown(client.url)} is {_what_answers(visit)}, not Label Studio (status {reply.status})",
        "Set LABEL_STUDIO_URL to the address that a browser opens, with its path where Label Studio lives below one.",
    )


def _what_answers(visit: Visit) -> str:
    try:
        health = visit.label_studio.ask("GET", "/health", seconds=15, anonymous=True)
    except NoAnswer:
        return "a server"
    return "an ML backend" if health.entry("model_class") else "a server"


def check_token(visit: Visit) -> str:
    """Label Studio accepts ``LABEL_STUDIO_API_KEY``."""
    client = visit.label_studio
    if not visit.settings.label_studio_api_key:
        raise Problem(
            "LABEL_STUDIO_API_KEY is not set",
            "In Label Studio open Account & Settings > Personal Access Token, create one, and set it as "
            "LABEL_STUDIO_API_KEY of the ML backend.",
        )
    reply = visit.call("/api/current-user/whoami")
    kind = client.token_kind
    if reply.status == 200 and kind == "access":
        raise Problem(
            "LABEL_STUDIO_API_KEY is an access token, which ends after five minutes",
            "Set it to the personal access token itself.",
        )
    if reply.status == 200:
        visit.user = str(reply.entry("email") or reply.entry("username") or "somebody")
        return f"a {kind} token of {visit.user}"
    if "legacy token authentication has been disabled" in str(reply.entry("detail")):
        raise Problem(
            "the token is a legacy one, and legacy tokens are switched off",
            "Use a personal access token (Account & Settings > Personal Access Token), or switch legacy tokens on "
            "(Organization > API Tokens Settings).",
        )
    if reply.status not in (401, 403):
        raise Problem(f"Label Studio answered {reply.status} to a token", "Look into Label Studio's log.")
    raise Problem(
        f"Label Studio does not accept the {kind} token in LABEL_STUDIO_API_KEY",
        "It is of another Label Studio, was revoked, or was copied in part; create a new one and copy it whole.",
    )


def check_project(visit: Visit) -> str:
    """The project is there and the token's user sees it."""
    if visit.project_id is None:
        raise NotNow(f"name one with --project; {visit.user} sees {_listed_projects(visit)}")
    reply = visit.call(f"/api/projects/{visit.project_id}/")
    project = reply.json()
    if reply.status == 200 and isinstance(project, dict):
        visit.project = project
        return f"{visit.project_id}, '{project.get('title')}'"
    if reply.status not in (403, 404):
        raise Problem(f"Label Studio answered {reply.status}", "Look into Label Studio's log.")
    raise Problem(
        f"{visit.user} sees no project {visit.project_id}",
        f"The number stands in the project's address (/projects/<number>/). {visit.user} sees "
        f"{_listed_projects(visit)}; else use a token of a member of the project.",
    )


def _listed_projects(visit: Visit) -> str:
    found = visit.call(f"/api/projects/?page_size={_LISTED + 1}").entry("results")
    titles = [f"{p.get('id')} '{p.get('title')}'" for p in found or () if isinstance(p, dict)]
    more = " and more" if len(titles) > _LISTED else ""
    return (", ".join(titles[:_LISTED]) or "none yet") + more


def check_config(visit: Visit) -> Finding | str:
    """The labeling configuration has a picture, a tag that takes masks, and tags that ask for them."""
    try:
        config = parse_label_config(str(visit.project.get("label_config") or "<View/>"))
    except LabelConfigError as error:
        raise Problem(str(error), "Mend it in Settings > Labeling Interface > Code.") from error
    tag = config.picture()
    if tag is None:
        raise Problem("it has no Image tag", "Take one of label_config/, or add an <Image>.")
    visit.config = config
    if tag.kind == "video":
        text = "a Video tag: typed text is answered in words, clicks on it never reach a backend"
        return Finding(Mark.NOTE, text, "Import clips as pages of pictures (label_config/video_frames.xml).")
    if config.labels_in_tasks:
        return "tasks name the labels; they are looked at with the task"
    _check_tags(config, tag)
    output = config.output(tag.name)
    text = f"answers go to {output.kind} '{output.name}'"
    if config.reply(tag.name) is None:
        mend = f'Add <TextArea name="reply" toName="{tag.name}" smart="false" editable="false" maxSubmissions="1"/>.'
        return Finding(Mark.NOTE, text + "; without a read-only TextArea problems stay invisible to annotators", mend)
    return text


def _check_tags(config: LabelConfig, tag: ObjectTag, where: str = "") -> None:
    problems = list(_config_problems(config, tag))
    if problems:
        raise Problem(where + "; ".join(text for text, _ in problems), " ".join(mend for _, mend in problems))


def _config_problems(config: LabelConfig, tag: ObjectTag) -> Iterator[tuple[str, str]]:
    for brush in config.on(tag.name, *_BRUSHES):
        if brush.smart:
            yield (
                f"'{brush.name}' has smart=\"true\", but Label Studio's smart brush never asks a backend",
                f"Write smart=\"false\" on '{brush.name}' and prompt with KeyPointLabels or RectangleLabels.",
            )
    try:
        for output in config.outputs(tag.name):
            output.check_hints()
    except LabelConfigError as error:
        text, _, mend = str(error).partition(": ")
        yield text, mend[:1].upper() + mend[1:]
        return
    drawn = prompt_tags(config, tag)
    typed = [control for control in config.on(tag.name, "textarea") if config.is_text_prompt(control.name)]
    if not drawn and not typed:
        yield (
            "no tag asks the backend",
            'Add KeyPointLabels or RectangleLabels with smart="true", or a TextArea for words.',
        )
    for control in drawn:
        others = [other for other in config.on(tag.name, *OUTPUTS) if other.labels and other.name != control.name]
        others = [other for other in others if not other.smart] or others  # smart boxes are there to ask
        answers = {label.value for other in others for label in other.labels}
        strange = [label.value for label in control.labels if label.value not in answers]
        if strange and len(answers) > 1:
            yield (
                f"no tag for masks has the labels {', '.join(strange)} of '{control.name}'",
                f"Give '{control.name}' and the tag for masks the same labels.",
            )


def prompt_tags(config: LabelConfig, tag: ObjectTag) -> list[ControlTag]:
    """The tags whose points and boxes are sent to a backend when they are drawn."""
    return [control for control in config.on(tag.name, *_DRAWN) if control.smart and control.labels]


def check_prefill(visit: Visit) -> Finding | str:
    """Whether opening a task asks for a prediction, and whose predictions are shown."""
    project, row = visit.project, visit.row or {}
    if not (project.get("show_collab_predictions") or project.get("evaluate_predictions_automatically")):
        return Finding(
            Mark.NOTE,
            "opening a task asks for no prediction and shows none",
            "Switch on Settings > Annotation > 'Use predictions to prelabel tasks' to have tasks filled when opened.",
        )
    chosen = project.get("model_version") or ""
    if row and chosen not in ("", row.get("title"), row.get("model_version")):
        return Finding(
            Mark.NOTE,
            f"opened tasks show the predictions of '{chosen}', not those of '{row.get('title')}'",
            f"Choose '{row.get('title')}' in Settings > Annotation > 'Select which predictions or which model'.",
        )
    return "opening a task asks for a prediction"


def check_task(visit: Visit) -> str:
    """The project has a task, and the task holds what the Image tag shows."""
    task = _task(visit)
    visit.task = task
    tag = visit.config.picture() if visit.config else None
    if tag is None or tag.kind != "image":
        raise NotNow("pictures are looked at through an Image tag")
    data = task.get("data")
    try:
        value = task_value(tag, data if isinstance(data, dict) else {})
        visit.addresses = addresses_of(value, str(task.get("id")))
    except (LabelConfigError, MediaError) as error:
        raise Problem(
            f"task {task.get('id')}: {str(error).partition(': ')[0]}",
            f"Import tasks whose data has the entry that '{tag.name}' names ({tag.key}), or change the tag's value.",
        ) from error
    if visit.config.labels_in_tasks:
        visit.config = visit.config.for_task(data)
        _check_tags(visit.config, tag, f"task {task.get('id')}: ")
    pages = len(visit.addresses)
    return f"task {task.get('id')}" + (f", {pages} pages" if pages > 1 else "")


def _task(visit: Visit) -> dict[str, Any]:
    if visit.task_id is None:
        listed = visit.call(f"/api/tasks?project={visit.project_id}&page_size=1").entry("tasks")
        if not listed:
            raise Problem("the project has no tasks", "Import some, then run the doctor again.")
        number = listed[0].get("id")
    else:
        number = visit.task_id
    reply = visit.call(f"/api/tasks/{number}/")
    task = reply.json()
    if reply.status != 200 or not isinstance(task, dict):
        raise Problem(f"there is no task {number}", "Name one of this project with --task, or none.")
    if str(task.get("project")) != str(visit.project_id):
        raise Problem(f"task {number} is in project {task.get('project')}", "Name a task of this project.")
    return task

