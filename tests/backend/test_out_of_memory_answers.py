"""An annotator whose click does not fit into the device's memory is told so, by the status and in the reply."""

from __future__ import annotations

import pytest
import torch
from prompting import Asker, click
from reading import regions, sentences

from backend.app import close_app, create_app


@pytest.fixture
def client(settings, tiny_engine):
    app = create_app(settings, lambda: tiny_engine)
    app.extensions["x2sam"].engines.wait(5)
    yield app.test_client()
    close_app(app)


def test_the_click_is_told_and_the_next_one_is_answered(client, captured, tiny_engine):
    ask = Asker(client, captured)
    hook = tiny_engine.model.mask_decoder.register_forward_pre_hook(lambda *_: torch.empty(1 << 50, dtype=torch.uint8))
    try:
        entry = ask(click(50, 50))
    finally:
        hook.remove()
    assert not regions(entry) and "too little memory" in sentences(entry)[0]
    shown = client.get("/metrics").text
    assert "x2sam_device_shortages_total 2.0" in shown
    assert 'x2sam_predict_errors_total{error="DeviceMemoryError"} 1.0' in shown
    assert client.get("/ready").status_code == 200, "nothing is broken"
    assert regions(ask(click(50, 50)))
