"""Serves frames of imported videos to browsers. An address names a video's id and a frame, and its signature opens it:
no cookies, no credentials, so any page may load it.
"""

from __future__ import annotations

from flask import Blueprint, Response, current_app, request
from werkzeug.http import is_resource_modified

from backend.errors import MediaRefusedError
from backend.video_frames import BROWSER, VideoFrames

blueprint = Blueprint("videos", __name__)

_YEAR = 365 * 24 * 3600


def _frames() -> VideoFrames:
    return current_app.extensions["x2sam"].fetcher.videos


@blueprint.get("/frames/<video_id>/<int:frame>.jpg")
def frame(video_id: str, frame: int) -> Response:
    """One frame as JPEG; 403 without a good signature, 404 and 410 when the video is not there."""
    frames = _frames()
    if not frames.is_signed(video_id, frame, request.args.get("s", "")):
        raise MediaRefusedError("The address of this frame is not signed by this ML backend, or its key was replaced.")
    tag = f"{video_id}-{frame}"
    if is_resource_modified(request.environ, etag=tag):
        answer = Response(frames.read(video_id, frame, BROWSER), mimetype="image/jpeg")
    else:
        answer = Response(status=304)
    answer.set_etag(tag)
    answer.headers["Cache-Control"] = f"private, max-age={_YEAR}, immutable"
    return answer


@blueprint.after_request
def open_to_pages(answer: Response) -> Response:
    """Label Studio's editor reads the pixels, from another origin; an error too, so that it can say what is wrong."""
    answer.headers["Access-Control-Allow-Origin"] = "*"
    answer.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    answer.headers["X-Content-Type-Options"] = "nosniff"
    return answer
