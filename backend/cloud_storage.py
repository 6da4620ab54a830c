"""Addresses in buckets (``s3://bucket/key``): read through Label Studio, which has the credentials.

Label Studio's editor asks ``/tasks/<id>/presign/`` for such a file; it either sends the file itself (storage without
pre-signed URLs) or redirects to the bucket with a signature in the query. The same is done here. The bucket's host must
be in ``X2SAM_MEDIA_HOSTS``, and Label Studio's token does not travel to it.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode

from backend.errors import MediaRefusedError

SCHEMES = ("s3", "gs", "azure-blob")


def is_cloud_address(address: str) -> bool:
    """Whether an address names a file in a bucket."""
    scheme, colon, _ = address.strip().partition("://")
    return bool(colon) and scheme.lower() in SCHEMES


def through_label_studio(address: str, task_id: str) -> str:
    """The path below Label Studio where the file of a bucket can be had; other addresses stay as they are.

    Label Studio looks into the source storages of the task's project only. ``/presign/`` is the name that all its
    versions know; newer ones also call it ``/resolve/``.

    :raises MediaRefusedError: the number of the task is not known.
    """
    if not is_cloud_address(address):
        return address
    if not (task_id.isascii() and task_id.isdecimal()):
        raise MediaRefusedError(
            "A picture in a bucket is read through its task in Label Studio; the task has no number."
        )
    scheme, _, rest = address.strip().partition("://")
    uri = f"{scheme.lower()}://{rest}".encode("utf-8", "surrogatepass")
    return f"/tasks/{task_id}/presign/?fileuri={urlsafe_b64encode(uri).decode()}"
