"""Fetching published checkpoints: the real download code against a local server, and real file formats."""

import hashlib
import io
import os
import pickle
import threading
from collections import OrderedDict
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision.models import resnet50

from spgca_lab.backbones import BackboneError, BackboneUnavailable, load_backbone, registry
from spgca_lab.backbones import resnet as resnets
from spgca_lab.backbones.base import IMAGENET, Blueprint
from spgca_lab.backbones.download import download_checkpoint, read_checkpoint
from tests.mock_models import BOTTLENECK_TAPS, bottleneck_net


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """torch's cache, empty, in a folder of the test's own; no proxy between the test and this machine."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def server():
    """`server.files[name] = bytes` are served at `server.url + name`; `server.asked` lists the requests."""
    state = SimpleNamespace(files={}, asked=[], cut=None)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.removeprefix("/")
            state.asked.append(name)
            if name not in state.files:
                self.send_error(404)
                return
            body = state.files[name]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: state.cut])

        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}/"
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


def saved(content, **kwargs):
    buffer = io.BytesIO()
    torch.save(content, buffer, **kwargs)
    return buffer.getvalue()


def hashed_name(body, stem="tiny"):
    return f"{stem}-{hashlib.sha256(body).hexdigest()[:8]}.pth"


class Evil:
    """What a checkpoint must not be able to do: call a function of its choice, here to make a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def tiny_backbone(monkeypatch, url):
    """Register `tiny`, whose weights are published at `url`, and return the network they should give."""
    blueprint = Blueprint(
        build=partial(bottleneck_net, seed=1),
        weights=lambda _model: download_checkpoint(url, "tiny"),
        taps=BOTTLENECK_TAPS,
        preprocess=IMAGENET,
        image_size=64,
        head="fc",
        classes=lambda: None,
    )
    monkeypatch.setitem(registry.BUILT_IN, "tiny", lambda: blueprint)
    return bottleneck_net(seed=2)


def test_weights_are_fetched_once_checked_and_loaded(cache, server, monkeypatch, capfd):
    published = bottleneck_net(seed=2)
    body = saved(published.state_dict())
    name = hashed_name(body)
    server.files[name] = body
    tiny_backbone(monkeypatch, server.url + name)
    for _ in range(2):
        source = load_backbone("tiny")
        assert all(
            torch.equal(a, b) for a, b in zip(source.model.parameters(), published.parameters(), strict=True)
        )
    assert server.asked == [name]
    assert [path.name for path in cache.iterdir()] == [name]
    assert "100%" in capfd.readouterr().err  # the progress bar


def test_a_wrong_hash_is_refused_and_leaves_nothing_behind(cache, server):
    body = saved({"a": torch.zeros(3)})
    name = hashed_name(body)
    server.files[name] = body[:-1] + bytes([body[-1] ^ 1])
    with pytest.raises(BackboneUnavailable, match="invalid hash value") as caught:
        download_checkpoint(server.url + name, "tiny")
    assert name in str(caught.value)
    assert list(cache.iterdir()) == []
    server.files[name] = body
    assert download_checkpoint(server.url + name, "tiny")["a"].tolist() == [0, 0, 0]


def test_a_hash_given_beside_the_name_is_checked_too(cache, server):
    body = saved({"a": torch.ones(1)})
    server.files["tiny.pth.tar"] = body
    with pytest.raises(BackboneUnavailable, match="invalid hash value"):
        download_checkpoint(server.url + "tiny.pth.tar", "tiny", "0" * 64)
    assert (
        download_checkpoint(server.url + "tiny.pth.tar", "tiny", hashlib.sha256(body).hexdigest())["a"].item()
        == 1
    )


def test_a_damaged_file_put_there_by_hand_is_named_and_kept(cache, server):
    body = saved({"a": torch.zeros(3)})
    name = hashed_name(body)
    cache.mkdir(parents=True)
    (cache / name).write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    with pytest.raises(BackboneUnavailable, match="SHA-256 begins with") as caught:
        download_checkpoint(server.url + name, "tiny")
    assert str(cache / name) in str(caught.value)
    assert (cache / name).exists()
    assert server.asked == []


@pytest.mark.parametrize("legacy", [True, False])
def test_a_connection_that_breaks_off_does_not_poison_the_cache(cache, server, legacy):
    body = saved({"a": torch.zeros(5000)}, _use_new_zipfile_serialization=not legacy)
    server.files["nohash.pth"] = body
    server.cut = len(body) // 2
    with pytest.raises(BackboneUnavailable):
        download_checkpoint(server.url + "nohash.pth", "tiny")
    assert list(cache.iterdir()) == []
    server.cut = None
    assert len(download_checkpoint(server.url + "nohash.pth", "tiny")["a"]) == 5000


@pytest.mark.parametrize("name", ["resnet50", "resnet101", "resnet50_places365"])
def test_offline_the_error_says_what_from_where_and_where_to(cache, monkeypatch, name):
    def refuse(*_args, **_kwargs):
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr("torch.hub.urlopen", refuse)
    with pytest.raises(BackboneUnavailable) as caught:
        load_backbone(name)
    text = str(caught.value)
    file, url = {
        "resnet50": ("resnet50-0676ba61.pth", "https://download.pytorch.org/models/resnet50-0676ba61.pth"),
        "resnet101": ("resnet101-63fe2227.pth", "https://download.pytorch.org/models/resnet101-63fe2227.pth"),
        "resnet50_places365": ("resnet50_places365.pth.tar", resnets.PLACES365_URL),
    }[name]
    for part in (repr(name), url, "Connection refused", str(cache / file), "lite0", "mini"):
        assert part in text
    assert list(cache.iterdir()) == []


def test_a_closed_port_gives_the_same_error(cache, server):
    port = server.url
    with pytest.raises(BackboneUnavailable, match="404"):
        download_checkpoint(port + "not-there.pth", "tiny")
    with pytest.raises(BackboneUnavailable, match="could not be downloaded"):
        download_checkpoint("http://127.0.0.1:9/closed.pth", "tiny")  # the discard port, where nobody listens


def test_a_cache_that_cannot_be_written_gives_the_same_error(cache, server):
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    with pytest.raises(BackboneUnavailable, match="could not be downloaded"):
        download_checkpoint(server.url + "tiny.pth", "tiny")


@pytest.mark.parametrize("legacy", [True, False])
def test_a_malicious_pickle_is_refused_without_running(cache, server, tmp_path, legacy):
    folder = tmp_path / "made-by-the-checkpoint"
    body = saved({"state_dict": Evil(folder)}, _use_new_zipfile_serialization=not legacy)
    torch.load(io.BytesIO(body), weights_only=False)
    folder.rmdir()  # it was there: the attack works on whoever opens the file the old way
    server.files["evil.pth"] = body
    with pytest.raises(BackboneUnavailable, match="nothing in it was run"):
        download_checkpoint(server.url + "evil.pth", "tiny")
    assert not folder.exists()
    assert list(cache.iterdir()) == []


def test_a_web_page_in_place_of_the_weights_is_refused(tmp_path):
    (tmp_path / "page.pth").write_text("<html>Please log in to this network</html>")
    with pytest.raises(BackboneUnavailable, match=r"page\.pth.*damaged"):
        read_checkpoint(tmp_path / "page.pth")


def test_weights_of_another_network_are_refused(cache, server, monkeypatch):
    state = bottleneck_net(seed=2).state_dict()
    state["extra.weight"] = state.pop("conv1.weight")
    state["fc.bias"] = torch.zeros(7)
    body = saved(state)
    name = hashed_name(body)
    server.files[name] = body
    tiny_backbone(monkeypatch, server.url + name)
    with pytest.raises(BackboneError) as caught:
        load_backbone("tiny")
    text = str(caught.value)
    assert 'Missing key(s) in state_dict: "conv1.weight"' in text
    assert 'Unexpected key(s) in state_dict: "extra.weight"' in text
    assert "size mismatch for fc.bias" in text


class Python2Pickler(pickle._Pickler):
    """Writes as PyTorch of 2017 on Python 2 with a GPU: byte strings, CUDA storages, tensors of old."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_str(self, text):
        data = text.encode("ascii")
        self.write(pickle.SHORT_BINSTRING + bytes([len(data)]) + data)
        self.memoize(text)

    dispatch[str] = save_str

    def save_global(self, obj, name=None):
        if obj is torch.FloatStorage:
            self.write(b"ctorch.cuda\nFloatStorage\n")
            self.memoize(obj)
        else:
            super().save_global(obj, name)

    def save_type(self, obj):
        self.save_global(obj)

    dispatch[type] = save_type
    dispatch[type(torch.FloatStorage)] = save_type

    def save_reduce(self, func, args, *rest, **kwargs):
        if func is torch._utils._rebuild_tensor_v2:
            func, args = torch._utils._rebuild_tensor, args[:4]
        super().save_reduce(func, args, *rest, **kwargs)


def places365_file(monkeypatch, arch="resnet50"):
    """A file as CSAIL's training script wrote it, and the network in it (random weights, 365 classes)."""
    torch.manual_seed(3)
    model = resnet50(num_classes=365)
    state = OrderedDict(
        (f"module.{name}", tensor)
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")  # PyTorch began to count in 0.4.1
    )
    content = {"epoch": 76, "arch": arch, "state_dict": state, "best_prec1": 54.65}
    python2 = SimpleNamespace(
        __name__="pickle",
        Pickler=Python2Pickler,
        dump=lambda obj, file, protocol: Python2Pickler(file, protocol).dump(obj),
    )
    with monkeypatch.context() as context:
        context.setattr("torch.serialization.location_tag", lambda _storage: "cuda:0")
        body = saved(content, _use_new_zipfile_serialization=False, pickle_module=python2, pickle_protocol=2)
    return body, model


def test_places365_in_csails_own_format(cache, server, monkeypatch):
    body, published = places365_file(monkeypatch)
    assert body[:2] == b"\x80\x02"  # a bare pickle of protocol 2, no zip
    assert b"ctorch.cuda\nFloatStorage\n" in body
    assert b"_rebuild_tensor\n" in body
    assert b"U\x13module.conv1.weight" in body
    server.files["resnet50_places365.pth.tar"] = body
    monkeypatch.setattr(resnets, "PLACES365_URL", server.url + "resnet50_places365.pth.tar")
    with pytest.raises(BackboneUnavailable, match="invalid hash value"):
        load_backbone("resnet50_places365")
    monkeypatch.setattr(resnets, "PLACES365_SHA256", hashlib.sha256(body).hexdigest())
    source = load_backbone("resnet50_places365")
    assert source.model.fc.out_features == 365
    assert not source.model.training
    given = source.model.state_dict()
    assert all(torch.equal(given[name], tensor) for name, tensor in published.state_dict().items())
    assert {tensor.device.type for tensor in given.values()} == {"cpu"}


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """The Hugging Face hub's cache, empty, and no network behind it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_timm_offline_the_error_says_what_and_what_to_do(hub_cache):
    with pytest.raises(BackboneUnavailable) as caught:
        load_backbone("timm:resnet18")
    for part in ("'resnet18'", "timm/resnet18.a1_in1k", "hf download", repr(str(hub_cache)), "lite0"):
        assert part in str(caught.value)


def test_timm_weights_copied_into_the_cache_by_hand_load_offline(hub_cache):
    published = timm.create_model("test_resnet.r160_in1k", pretrained=False)
    folder = hub_cache / "models--timm--test_resnet.r160_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0123abcd")
    (folder / "snapshots" / "0123abcd").mkdir(parents=True)
    save_file(published.state_dict(), folder / "snapshots" / "0123abcd" / "model.safetensors")
    source = load_backbone("test_resnet.r160_in1k")
    assert torch.equal(source.model.conv1[0].weight, published.conv1[0].weight)
    assert torch.equal(source.model.fc.weight, published.fc.weight)
    assert source.image_size == 160
    assert source.classes[967] == "espresso"


def test_a_timm_model_without_published_weights_says_so():
    with pytest.raises(BackboneUnavailable, match="timm publishes no weights for 'resnet50t'"):
        load_backbone("resnet50t")
