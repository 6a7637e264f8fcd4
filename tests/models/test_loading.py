"""Where the base model comes from, how it is held, and what is said where it is missing."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch

from bench.api import ConfigError, DataError
from bench.cli.main import main
from bench.config.load import load_settings
from bench.config.settings import Runtime
from bench.device import MemoryShortError, describe_device, memory_told, resolve_device
from bench.hub import fetch_model, locate_model
from bench.models import loading
from bench.models.kernels import compile_blocks
from bench.models.policy import PipelinePolicy
from bench.models.random_pipeline import build_random_pipeline

ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
SMALL = Runtime(resolution=64, text_length=24)


def shrunken(**runtime: object) -> PipelinePolicy:
    return PipelinePolicy.load(
        "shrunken", weights="random", device="cpu", runtime=Runtime(**{"text_length": 24, **runtime})
    )


def states(policy: PipelinePolicy, count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Random x (count, *S) and sigma (count,)."""
    x = torch.randn(count, *policy.latent_shape, generator=torch.Generator().manual_seed(5))
    return x, torch.linspace(0.2, 0.9, count)


# Folders and hub ids


def test_a_fetched_model_is_loaded_by_its_hub_id(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0" * 40
    place = tmp_path / "models--organisation--name"
    shutil.copytree(tiny_pipeline, place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert locate_model("organisation/name") == place / "snapshots" / commit
    by_id, by_folder = PipelinePolicy.load("organisation/name"), PipelinePolicy.load(tiny_pipeline)
    x, sigma = states(by_id)
    cond = by_id.encode(["a star", "a ring"])
    assert torch.equal(by_id.velocity(x, sigma, cond), by_folder.velocity(x, sigma, cond))


@pytest.mark.slow
def test_weights_are_read_as_they_are_held_and_rounded_once(tmp_path: Path) -> None:
    pipeline = build_random_pipeline("shrunken")
    pipeline.to(torch.float16).save_pretrained(tmp_path)
    held = Runtime(denoiser_weights="float32", frozen_weights="bfloat16")
    read, policy = loading._stored(tmp_path, held), PipelinePolicy.load(tmp_path, device="cpu", runtime=held)
    for name, dtype in (("transformer", torch.float32), *((part, torch.bfloat16) for part in ("vae", *ENCODERS))):
        published = getattr(pipeline, name).state_dict()
        for found in (getattr(read, name).state_dict(), getattr(policy.pipeline, name).state_dict()):
            assert all(torch.equal(t, published[key].to(dtype)) and t.dtype == dtype for key, t in found.items()), name


def test_random_weights_are_drawn_as_they_are_held() -> None:
    pipeline = build_random_pipeline("shrunken", frozen="bfloat16")
    assert {p.dtype for p in pipeline.transformer.parameters()} == {torch.float32}
    for name in ("vae", *ENCODERS):
        parameters = list(getattr(pipeline, name).parameters())
        assert {p.dtype for p in parameters} == {torch.bfloat16}
        assert max(float(p.detach().std()) for p in parameters if p.ndim > 1) > 0
    assert torch.get_default_dtype() == torch.float32


def test_a_model_that_was_not_fetched_is_named_with_the_command_that_does(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="python -m bench fetch organisation/missing"):
        PipelinePolicy.load("organisation/missing")
    with pytest.raises(DataError, match="a hub id like organisation/name"):
        locate_model(tmp_path / "nothing here")


def test_nothing_is_fetched_offline(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "organisation/name"]) == 2
    assert "HF_HUB_OFFLINE is set, so nothing can be fetched: unset it" in capsys.readouterr().err
    assert main(["fetch", "name"]) == 2
    assert "'name': expected a hub id like organisation/name" in capsys.readouterr().err


@contextmanager
def hub(status: int, code: str) -> Iterator[str]:
    """A hub on this machine that refuses everything in the hub's own way; gives its address."""

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "code", "mend"),
    [
        (403, "GatedRepo", "accept it there, make a token at https://huggingface.co/settings/tokens, and set HF_TOKEN"),
        (404, "RepoNotFound", "look at https://huggingface.co/organisation/name, and set HF_TOKEN to a token"),
        (403, "", "fetching it failed"),
    ],
)
def test_a_refusal_of_the_hub_says_what_to_do(
    status: int, code: str, mend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with hub(status, code) as address, pytest.raises(DataError, match=mend):
        fetch_model("organisation/name", endpoint=address)


# Text


def test_with_t5_every_text_has_one_length_and_without_it_is_shorter() -> None:
    with_t5, without = shrunken(), shrunken(t5=False, text_length=None)
    assert with_t5.encode(["a", "a longer text"]).embeds.shape == (2, 77 + 24, 48)
    assert without.encode(["a"]).embeds.shape == (1, 77, 48)
    assert shrunken(text_length=None).texts.length == 256
    assert without.pipeline.text_encoder_3 is None


def test_a_text_that_t5_would_cut_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"tokens, but the text encoders read 24: shorten it, or raise --runtime\.text_l"
    ):
        shrunken().encode(["a text of more than four and twenty letters"])


def test_parked_encoders_give_the_same_bits_at_once_or_ahead() -> None:
    ahead, later = shrunken(park_encoders=True), shrunken()
    ahead.texts.prepare(["a star", ""])
    assert torch.equal(ahead.encode(["a star"]).embeds, later.encode(["a star"]).embeds)


# Precision


@pytest.mark.slow
def test_frozen_parts_may_be_held_in_half_precision_and_give_float32(tmp_path: Path) -> None:
    build_random_pipeline("shrunken").save_pretrained(tmp_path)
    policy, full = (
        PipelinePolicy.load(tmp_path, device="cpu", runtime=Runtime(text_length=24, frozen_weights=held))
        for held in ("bfloat16", "float32")
    )
    held = {p.dtype for part in (policy.pipeline.vae, policy.pipeline.text_encoder_3) for p in part.parameters()}
    assert held == {torch.bfloat16} and policy.transformer.dtype == torch.float32
    cond, pictures = policy.encode(["a star"]), policy.decode(torch.randn(2, *policy.latent_shape))
    mean, std = policy.encode_pictures(pictures)
    assert {t.dtype for t in (cond.embeds, cond.pooled, mean, std)} == {torch.float32}
    error = (cond.embeds - full.encode(["a star"]).embeds).norm() / cond.embeds.norm()
    assert 0 < error < 0.02  # bfloat16 rounds to 2^-9, layer after layer


def test_weights_in_bfloat16_are_for_lora_alone(tiny_pipeline: Path) -> None:
    half = {"model": str(tiny_pipeline), "runtime.denoiser_weights": "bfloat16", "train.precision": "bfloat16"}
    with pytest.raises(ConfigError, match="weights that are trained wholly stay float32"):
        load_settings("smoke", half)
    lora = load_settings("smoke", {**half, "train.adaptation": "lora"})
    assert lora.runtime.denoiser_weights == "bfloat16"
    with pytest.raises(ConfigError, match=r"needs train\.precision bfloat16"):
        load_settings("smoke", {**half, "train.adaptation": "lora", "soar.train.precision": "float32"})


def test_attention_kernels_agree() -> None:
    auto, plain = shrunken(), shrunken(attention="math")
    (x, sigma), cond = states(auto), auto.encode(["a", "b"])
    torch.testing.assert_close(auto.velocity(x, sigma, cond), plain.velocity(x, sigma, cond), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_missing_compiler_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", (None, "no-such-compiler"))
    monkeypatch.setattr(config, "force_disable_caches", True)
    with pytest.raises(ConfigError, match=r"torch\.compile does not work here .* install a C\+\+ compiler"):
        compile_blocks(torch.nn.Module(), torch.device("cpu"))
    torch._dynamo.reset()


# Picture size, device, memory


def test_the_picture_size_is_the_models_own_or_the_one_asked_for() -> None:
    assert shrunken().latent_shape == (16, 8, 8)
    larger = shrunken(resolution=128)
    assert larger.latent_shape == (16, 16, 16)
    assert larger.decode(torch.zeros(1, 16, 16, 16)).shape == (1, 128, 128, 3)
    with pytest.raises(ConfigError, match="expected a multiple of 16, at most 192"):
        shrunken(resolution=200)
    with pytest.raises(DataError, match=r"the model takes \(128, 128, 3\)"):
        larger.encode_pictures(np.zeros((1, 64, 64, 3), np.uint8))


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu") and describe_device("auto") == "cpu"
    with pytest.raises(ConfigError, match=r"device 'cuda:1': expected a CUDA device, but torch .* say --device cpu"):
        resolve_device("cuda:1")


def test_scorers_follow_the_device_that_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with two GPUs, as torch would tell of it."""
    from bench import device

    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(device, "_present", None)
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert device.present_device() == torch.device("cuda", 0) and chosen == [0]  # as a reward server's scorer finds it
    assert not torch.backends.cudnn.allow_tf32
    for requested in ("cuda:1", "cpu"):
        assert resolve_device(requested) == device.present_device() == torch.device(requested)


def test_memory_that_runs_out_is_told_with_what_to_lower() -> None:
    policy = shrunken()

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ..."
        )

    policy.transformer.pos_embed.register_forward_pre_hook(full)
    (x, sigma), cond = states(policy), policy.encode(["a", "b"])
    with pytest.raises(MemoryShortError) as caught:
        policy.velocity(x, sigma, cond)
    assert str(caught.value) == (
        "a pass of 2 samples does not fit into the device's memory (Tried to allocate 2.00 GiB): say "
        "--train.gradient_checkpointing true, or lower --train.micro_batch or --evaluation.batch_size"
    )
    with memory_told("nothing", "nothing"):  # other errors are left alone
        assert True
